"""INSTRE (Wang & Jiang, TOMM 2015) by the protocol of Iscen et al. (CVPR 2017)."""

from collections.abc import Sequence
from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.datasets.groundtruth import Gnd, read_gnd
from resight.evaluation.datasets.layout import check_counts, fit_box, needed_file, require_files, upright_size
from resight.evaluation.labelled import Box, LabelledSet, Query

Size = tuple[int, int]

_READINGS = {"corners": "(x1, y1, x2, y2)", "extents": "(x, y, width, height)"}


def load_instre(folder: Path, protocol: str, partial: bool) -> LabelledSet:
    """1,250 queries, five for each of 250 objects or pairs, against 27,293 images.

    Layout: ``INSTRE-S1/``, ``INSTRE-S2/`` and ``INSTRE-M/`` as the archive unpacks, and ``gnd_instre.mat`` of Iscen et
    al., whose `imlist` and `qimlist` are paths from the folder and whose places count from 1.
    Protocol: queries cropped to their boxes; trapezoidal AP; S1, S2 and M also apart. Published evaluators disagree on
    whether a box is (x1, y1, x2, y2) or (x, y, width, height): ``cropped`` takes the one by which all boxes lie in
    their images; ``cropped-corners`` and ``cropped-extents`` say which, ``uncropped`` asks with whole images.
    Raises GroundTruthError where boxes leave their images by either reading, or fit by both.
    """
    file = needed_file(folder, ["gnd_instre.mat", "gnd_instre.json"])
    gnd = read_gnd(file, ("ok",))
    require_files(folder, [*gnd.images, *gnd.queries], file)
    boxes, order = _boxes(folder, gnd, protocol)
    labelled = LabelledSet(
        name="instre",
        file=file,
        root=folder,
        database=gnd.images,
        queries=tuple(
            Query(path, gnd.named(place, ["ok"]) - {path}, frozenset(), boxes[place], Path(path).parts[0])
            for place, path in enumerate(gnd.queries)
        ),
        protocol=f"Iscen et al. 2017; queries {order}",
        groups={path: "/".join(Path(path).parts[:-1]) for path in gnd.images},
        revision=gnd.revision,
    )
    return check_counts(labelled, partial, images=27_293, queries=1_250)


def _boxes(folder: Path, gnd: Gnd, protocol: str) -> tuple[Sequence[Box | None], str]:
    if protocol == "uncropped":
        return [None] * len(gnd.boxes), "NOT CROPPED to their boxes"
    sizes = [upright_size(folder / path) for path in gnd.queries]
    reading = protocol.removeprefix("cropped").removeprefix("-") or _only_reading(gnd, sizes)
    boxes = [
        fit_box(read_as(box, reading), size, f"{gnd.file}: query {path}, box read as {_READINGS[reading]}")
        for path, box, size in zip(gnd.queries, gnd.boxes, sizes, strict=True)
    ]
    return boxes, f"cropped to their boxes, read as {_READINGS[reading]}"


def read_as(box: Box, reading: str) -> Box:
    """(x1, y1, x2, y2) of four numbers that are ``corners`` or ``extents``."""
    a, b, c, d = box
    return box if reading == "corners" else (a, b, a + c, b + d)


def _only_reading(gnd: Gnd, sizes: Sequence[Size]) -> str:
    def misfit(reading: str) -> str:
        for path, box, size in zip(gnd.queries, gnd.boxes, sizes, strict=True):
            try:
                fit_box(read_as(box, reading), size, f"query {path}")
            except GroundTruthError as error:
                return str(error)
        return ""

    misfits = {reading: misfit(reading) for reading in _READINGS}
    fitting = [reading for reading, problem in misfits.items() if not problem]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise GroundTruthError(
            f"{gnd.file}: every box fits as corners and as extents: say which by the protocol cropped-corners or "
            "cropped-extents"
        )
    problems = "; ".join(f"as {_READINGS[reading]}, {problem}" for reading, problem in misfits.items())
    raise GroundTruthError(f"{gnd.file}: boxes leave their images: {problems}")
