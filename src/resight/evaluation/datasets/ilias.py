"""ILIAS (Kordopatis-Zilos et al., CVPR 2025): 1,000 objects among up to 100 million distractors."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from resight.errors import GroundTruthError, ImageError
from resight.evaluation.datasets.layout import check_counts, fit_box, image_paths, require_files, revision, upright_size
from resight.evaluation.labelled import Box, LabelledSet, Query, refuse
from resight.images.archives import split_member
from resight.images.sources import find_sources

_CORE = "ilias_core"
_IMAGE = re.compile(r"[^/]+/(query/Q|pos/P)\d+_\d+\.jpg")
_MINI = "image_ids/mini_ilias_yfcc100m_ids.txt"


def load_ilias(folder: Path, protocol: str, partial: bool) -> LabelledSet:
    """1,232 image queries and 4,715 positives of 1,000 objects, with distractors of YFCC100M.

    Layout, as the set's script leaves it: ``ilias_core/NAME_xxx/query/Qxxx_yy.jpg`` and ``…/pos/Pxxx_zz.jpg``, each
    with ``…_bbox.txt`` (x y width height, a line a box); ``yfcc100m/*.tar``, shards of distractors that stay packed;
    ``image_ids/mini_ilias_yfcc100m_ids.txt`` names the five million of mini-ILIAS.
    Protocol: ``core`` has no distractors, ``mini`` those five million, ``shards`` all that ``yfcc100m/`` has, counted
    in the report (every shard: the published 100 million); queries are whole, as published, and with ``-cropped``
    cropped to the box around their boxes. mAP@1k: rectangular AP of the first 1000 over min(R, 1000).
    """
    part, _, crop = protocol.partition("-")
    paths = [path for path in image_paths(folder, _CORE) if _IMAGE.fullmatch(path.removeprefix(f"{_CORE}/"))]
    answers: dict[str, set[str]] = {}
    asked: list[str] = []
    for path in paths:
        instance, kind = path.split("/")[1:3]
        (answers.setdefault(instance, set()).add if kind == "pos" else asked.append)(path)
    listed = _listed(folder)
    if listed is not None:
        require_files(folder, listed[0], listed[1])
    database = [path for path in paths if path.split("/")[2] == "pos"]
    queries = []
    for path in asked:
        instance = path.split("/")[1]
        if instance not in answers:
            raise GroundTruthError(f"{folder / path}: its object has no positive in {instance}/pos: get the set again")
        queries.append(Query(path, frozenset(answers[instance]), box=_box(folder / path) if crop else None))
    labelled = LabelledSet(
        name="ilias",
        file=folder / _CORE,
        root=folder,
        database=tuple(database),
        queries=tuple(queries),
        protocol=f"mAP@1k over min(R, 1000); queries {'CROPPED to their boxes' if crop else 'whole, as published'}",
        groups={path: path.split("/")[1] for path in paths},
        revision=revision(path.encode() for path in paths),
        average_precision="truncated-1000",
    )
    labelled = check_counts(labelled, partial, images=4_715, queries=1_232)
    return labelled if part == "core" else _with_shards(labelled, part, partial)


def _listed(folder: Path) -> tuple[list[str], Path] | None:
    """The images that the set's own lists name, where they are there; a line is an id and, of some, numbers."""
    files = [folder / "image_ids" / f"{kind}_ids.txt" for kind in ("image_query", "positive")]
    if not all(file.is_file() for file in files):
        return None
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [f"{_CORE}/{line.split(',')[0].strip()}" for line in lines], files[0].parent


def _box(image: Path) -> Box:
    """The box around all boxes of an image."""
    file = image.with_name(f"{image.stem}_bbox.txt")
    try:
        boxes = [
            [float(word) for word in line.split()] for line in file.read_text("ascii").splitlines() if line.strip()
        ]
        spans = [(x, y, x + width, y + height) for x, y, width, height in boxes]
        left, top, right, bottom = zip(*spans, strict=True)
    except OSError as error:
        raise GroundTruthError(f"{file}: cannot be read: {error.strerror}; get the set again") from error
    except ValueError as error:
        raise GroundTruthError(f"{file}: is not lines of x y width height: get the set again") from error
    return fit_box((min(left), min(top), max(right), max(bottom)), upright_size(image), str(file))


def _with_shards(labelled: LabelledSet, part: str, partial: bool) -> LabelledSet:
    """The set with the members of its shards as distractors, those of mini-ILIAS or all."""
    folder = labelled.root
    shards = sorted((folder / "yfcc100m").glob("*.tar"))
    if not shards:
        raise GroundTruthError(f"{folder / 'yfcc100m'}: has no shards (*.tar): get them, or evaluate the protocol core")
    chosen: frozenset[str] | None = None
    if part == "mini":
        file = folder / _MINI
        if not file.is_file():
            raise GroundTruthError(f"{file}: is missing, and says which distractors mini-ILIAS has: get it")
        chosen = frozenset(file.read_text(encoding="utf-8").split())
    added = list(_members(shards, chosen))
    if chosen is not None and len(added) != len(chosen):
        if not partial:
            raise GroundTruthError(
                f"{folder / 'yfcc100m'}: has {len(added):,} of the {len(chosen):,} distractors of mini-ILIAS; get the "
                "other shards, or ask for a partial set, whose figures compare with nobody's"
            )
        text = f"{labelled.protocol}; NOT ALL DISTRACTORS: {len(added):,} of {len(chosen):,}"
        labelled = replace(labelled, protocol=text)
    if not added:
        raise GroundTruthError(f"{folder / 'yfcc100m'}: its shards hold no distractor of {part}")
    text = labelled.protocol
    if chosen is None:
        text += f"; {len(added):,} distractors in {len(shards):,} shards"
    return replace(labelled, database=(*labelled.database, *added), distractors=len(added), protocol=text)


def _members(shards: list[Path], chosen: frozenset[str] | None) -> Iterator[str]:
    """Origins of the shards' pictures; chosen: their names without suffix, or ``SHARD.tar/NAME``."""
    for shard in shards:
        try:
            for source in find_sources([shard], on_problem=refuse):
                member = split_member(source.origin)
                key = (member[1] if member else source.origin).rsplit(".", 1)[0]
                if chosen is None or key in chosen or f"{shard.name}/{key}" in chosen:
                    yield source.origin
        except ImageError as error:
            raise GroundTruthError(f"{shard}: {error.reason}") from error
