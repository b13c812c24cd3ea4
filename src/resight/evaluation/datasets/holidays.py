"""INRIA Holidays (Jégou, Douze & Schmid, ECCV 2008), as it was published and with its images turned upright by hand."""

from collections import defaultdict
from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.datasets.layout import by_stem, check_counts, first_file, image_paths, resolve, revision
from resight.evaluation.labelled import LabelledSet, Query

_LISTS = ("holidays_images.dat", "eval_holidays/holidays_images.dat")
_TURNED = {
    "holidays": "images as published, many lying on their side (EXIF orientation, where there is one, is applied)",
    "holidays-upright": "images turned upright by hand",
}


def load_holidays(folder: Path, protocol: str, partial: bool, *, name: str) -> LabelledSet:
    """1,491 images of 500 scenes; the first of each scene is its query.

    Layout, as `jpg1.tar.gz`, `jpg2.tar.gz` and `eval_holidays.tgz` unpack: ``jpg/100000.jpg …``, and optionally
    ``eval_holidays/holidays_images.dat``, the list of all images, which then must all be there. The upright variant has
    the same names.
    Protocol: number ÷ 100 names the scene, and numbers that 100 divides are queries. A query is removed from its own
    ranking; trapezoidal AP. name: ``holidays`` or ``holidays-upright``, which the files do not tell apart.
    """
    found = by_stem(image_paths(folder, "jpg" if (folder / "jpg").is_dir() else ""))
    listed = first_file(folder, _LISTS)
    if listed is not None:
        lines = listed.read_text(encoding="utf-8", errors="replace").split()
        stems = [Path(line).stem for line in lines if line.lower().endswith(".jpg")]
        resolve(stems, found, folder, listed)
        found = {stem: found[stem] for stem in stems}
    scenes: dict[int, dict[int, str]] = defaultdict(dict)
    for stem, path in sorted(found.items()):
        if not (stem.isascii() and stem.isdigit()):
            raise GroundTruthError(f"{folder / path}: its name is no number: move it elsewhere")
        scenes[int(stem) // 100][int(stem)] = path
    queries = []
    for scene, images in scenes.items():
        if scene * 100 not in images:
            raise GroundTruthError(f"{folder}: the query {scene * 100}.jpg of scene {scene} is missing: get it again")
        query = images[scene * 100]
        queries.append(Query(query, frozenset(images.values()) - {query}))
    database = tuple(path for images in scenes.values() for path in images.values())
    labelled = LabelledSet(
        name=name,
        file=folder,
        root=folder,
        database=database,
        queries=tuple(queries),
        protocol=f"{_TURNED[name]}; the query is removed from its own ranking",
        groups={path: str(scene) for scene, images in scenes.items() for path in images.values()},
        revision=revision(path.encode() for path in database),
    )
    return check_counts(labelled, partial, images=1_491, queries=500)
