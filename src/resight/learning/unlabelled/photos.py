"""A folder of photos of which nothing is known."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.labelled import LabelledSet
from resight.images.archives import split_member
from resight.images.sources import find_sources
from resight.learning.datasets.photos import Photo, TrainingSet
from resight.learning.datasets.pictures import unreadable, unreadable_error


@dataclass(frozen=True)
class UnlabelledPhotos(TrainingSet):
    """Photos whose labels say nothing but which is which: there are no classes.

    Raises GroundTruthError, naming the folder, for fewer than four photos.
    """

    def __post_init__(self) -> None:
        if len(self.photos) < 4:
            raise GroundTruthError(f"{self.file}: {len(self.photos)} photos teach nothing: give a folder of many")


def unlabelled_photos(folders: Sequence[str | Path], held_out: LabelledSet | None = None) -> UnlabelledPhotos:
    """All pictures that the paths name, as ``find_sources`` finds them, by path.

    held_out: whose images are left out, and ``selection`` says how many. ``revision`` is of the paths and lengths.
    Raises GroundTruthError for what cannot be listed, and for members of archives, which are to be unpacked first;
    ResightError for a path that does not exist.
    """

    def refuse(origin: str, reason: str) -> None:
        raise GroundTruthError(f"{origin}: cannot be listed: {reason}")

    sources = sorted(find_sources(folders, on_problem=refuse))
    origins = [source.origin for source in sources]
    if packed := [origin for origin in origins if split_member(origin) is not None]:
        raise GroundTruthError(f"{packed[0]}: photos in archives cannot be learned from: unpack it, give the folder")
    kept = origins
    if held_out is not None:
        images = [*held_out.database, *(query.path for query in held_out.queries)]
        tested = {held_out.locate(path).resolve() for path in images}
        kept = [origin for origin in origins if Path(origin).resolve() not in tested]
    left_out = len(origins) - len(kept)
    return UnlabelledPhotos(
        name=", ".join(Path(folder).name or str(folder) for folder in folders),
        photos=tuple(Photo(Path(origin), place) for place, origin in enumerate(kept)),
        classes=(),
        file=Path(folders[0]).absolute(),
        revision=hashlib.sha256("\n".join(f"{s.origin} {s.bytes}" for s in sources).encode()).hexdigest()[:12],
        selection=f"without {left_out} images that are validated on" if left_out else "",
    )


def readable(photos: UnlabelledPhotos, *, workers: int, skip: bool) -> UnlabelledPhotos:
    """Read each photo once, before a network learns for hours.

    Raises GroundTruthError that lists all that cannot be read; skip: leaves them out instead, and says so.
    """
    reasons = unreadable(photos.photos, workers=workers)
    if not any(reasons):
        return photos
    if not skip:
        raise unreadable_error(photos.file, "photos", reasons)
    good = [photo for photo, reason in zip(photos.photos, reasons, strict=True) if not reason]
    text = f"without {len(reasons) - len(good)} unreadable photos"
    return replace(
        photos,
        photos=tuple(replace(photo, label=place) for place, photo in enumerate(good)),
        selection=f"{photos.selection}; {text}" if photos.selection else text,
    )
