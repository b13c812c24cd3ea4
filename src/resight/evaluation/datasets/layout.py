"""What loaders of published sets share: finding images by name, checking that all are there, boxes, distractors."""

import hashlib
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from resight.errors import GroundTruthError, ImageError
from resight.evaluation.labelled import Box, LabelledSet, refuse, with_distractors
from resight.images.sources import find_sources

_OVERHANG = 1.0  # pixels: published boxes are rounded


def image_paths(folder: Path, below: str = "") -> list[str]:
    """Every picture under a folder, or under the sub-folder ``below`` of it, relative to the folder, in order of name.

    folder: absolute and normalised.

    Raises GroundTruthError where there is none, or a part of the folder cannot be listed.
    """
    where = folder / below
    if not where.is_dir():
        raise GroundTruthError(f"{where}: no such folder; see `resight datasets list` for what belongs in {folder}")
    prefix = f"{folder}{os.sep}"  # of every origin; a set may have a million, so as texts
    origins = (source.origin for source in find_sources([where], on_problem=refuse))
    paths = [origin.removeprefix(prefix).replace(os.sep, "/") for origin in origins]
    if not paths:
        raise GroundTruthError(f"{where}: no images; unpack them there")
    return paths


def by_stem(paths: Iterable[str]) -> dict[str, str]:
    """Name without folder and suffix → path. Raises GroundTruthError where two images share a name."""
    found: dict[str, str] = {}
    for path in paths:
        if (other := found.setdefault(posixpath.splitext(posixpath.basename(path))[0], path)) != path:
            raise GroundTruthError(f"{path} and {other} have one name: remove one")
    return found


def resolve(names: Iterable[str], paths: dict[str, str], folder: Path, said_by: Path) -> list[str]:
    """The path of each image named. Raises GroundTruthError, counting them, where some are missing."""
    wanted = list(names)
    missing = [name for name in wanted if name not in paths]
    if missing:
        raise GroundTruthError(
            f"{folder}: {len(missing)} of the {len(wanted)} images that {said_by.name} names are missing: "
            f"{_some(missing)}; get the set's images again, or run `resight datasets check`"
        )
    return [paths[name] for name in wanted]


def require_files(folder: Path, paths: Sequence[str], said_by: Path) -> None:
    """Raises GroundTruthError, counting them, unless each path, relative to the folder, is a file."""
    missing = [path for path in paths if not (folder / path).is_file()]
    if missing:
        raise GroundTruthError(
            f"{folder}: {len(missing)} of the {len(paths)} images that {said_by.name} names are missing: "
            f"{_some(missing)}; get the set's images again, or run `resight datasets check`"
        )


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files, relative to the folder, that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def needed_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of these files, relative to the folder, that is there. Raises GroundTruthError where none is."""
    found = first_file(folder, names)
    if found is None:
        raise GroundTruthError(f"{folder}: has no ground truth: put {' or '.join(names)} there")
    return found


def check_counts(labelled: LabelledSet, partial: bool, **published: int) -> LabelledSet:
    """The set, if it is whole. published: ``images`` and ``queries``, as the publication counts them, either optional.

    partial: a set that is not whole is let through, and its protocol says so.
    Raises GroundTruthError for one that is not, since its figures would not be the benchmark's.
    """
    have = {"images": len(labelled.own), "queries": len(labelled.queries)}
    off = [f"{have[kind]:,} of {count:,} {kind}" for kind, count in published.items() if have[kind] != count]
    if not off:
        return labelled
    if not partial:
        raise GroundTruthError(
            f"{labelled.file}: {labelled.name} is not whole: {', '.join(off)}; "
            "complete it, or ask for a partial set, whose figures compare with nobody's"
        )
    return replace(labelled, protocol=f"{labelled.protocol}; NOT THE WHOLE SET: {', '.join(off)}")


def fit_box(box: Box, size: tuple[int, int], where: str) -> Box:
    """A box inside an image of (width, height) ``size``; up to a pixel of it may lie outside and is cut off.

    Raises GroundTruthError for one that is empty or leaves the image by more.
    """
    x1, y1, x2, y2 = box
    width, height = size
    if not (-_OVERHANG <= x1 < x2 <= width + _OVERHANG and -_OVERHANG <= y1 < y2 <= height + _OVERHANG):
        raise GroundTruthError(
            f"{where}: box {list(box)} is empty or leaves the image of {width} × {height} pixels: "
            "this is not the image that the ground truth was made for, or not its (x1, y1, x2, y2)"
        )
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def upright_size(file: Path) -> tuple[int, int]:
    """(width, height) of an image. Raises GroundTruthError where it cannot be read."""
    from resight.images.apart import read_image_apart

    try:
        return read_image_apart(file, max_side=64).size
    except ImageError as error:
        raise GroundTruthError(f"{file}: {error.reason}") from error


def distracted(labelled: LabelledSet, name: str, images: int, folders: Sequence[str], partial: bool) -> LabelledSet:
    """The set with the images of the first of these folders, in its own or beside it, added to its database.

    images: how many there are, as published.
    """
    places = [place / folder for place in (labelled.root, labelled.root.parent) for folder in folders]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise GroundTruthError(
            f"{labelled.root}: has no distractors: put the {images:,} images of {name} into "
            f"{places[0]}, or beside it into {places[len(folders)]}"
        )
    whole = with_distractors(labelled, [found])
    if whole.distractors != images:
        if not partial:
            raise GroundTruthError(
                f"{found}: {whole.distractors:,} of the {images:,} images of {name}; "
                "complete it, or ask for a partial set, whose figures compare with nobody's"
            )
        text = f"{whole.protocol}; NOT ALL DISTRACTORS: {whole.distractors:,} of {images:,}"
        whole = replace(whole, protocol=text)
    return whole


def revision(parts: Iterable[bytes]) -> str:
    """sha256, in hex, of the ground truth's parts in their order."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part + b"\0")
    return whole.hexdigest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
