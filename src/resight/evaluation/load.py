"""Reading a labelled set: a folder with ``gt.json``, or a folder with one sub-folder for each object."""

import difflib
import hashlib
import math
import os
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from resight.errors import GroundTruthError, ImageError
from resight.evaluation.labelled import Box, LabelledSet, Query, refuse
from resight.parsing import parse_json

DISTRACTORS = "_distractors"
"""The sub-folder of the simple form whose images are in the database and answer nothing."""


def load_labelled(path: str | Path) -> LabelledSet:
    """The labelled set in a folder (or the ``gt.json`` itself).

    With a ``gt.json``, paths relative to the folder and ? marking what may be absent::

        {"name": text, "protocol"?: text, "images"?: {path: {"size"?: [width, height], "instance"?: text}},
         "database": [path],
         "queries": {path: {"positives": [path], "junk"?: [path], "box"?: [x1, y1, x2, y2],
                            "subset"?: text}}}

    Other keys are left alone, near-misses of these refused. A query that is in the database is left out of
    its own ranking, and of its own positives and junk where the file lists it there.

    Without: each sub-folder holds the images of one object and names it. Every image of an object with at
    least two is a query and leaves itself out; an object's only image, and all of ``_distractors``, are
    database only.

    Raises GroundTruthError, naming the file and the entry, for anything missing, malformed or contradictory.
    """
    given = Path(path).expanduser().absolute()
    file = given if given.name == "gt.json" else given / "gt.json"
    if file.is_file():
        return _from_json(Path(os.path.normpath(file)))
    if given.is_dir():
        return _from_folders(Path(os.path.normpath(given)))
    raise GroundTruthError(f"{path}: no such folder; name one with a gt.json, or with a sub-folder for each object")


class _ImageEntry(BaseModel):
    size: tuple[int, int] | None = None
    instance: str | None = None


class _QueryEntry(BaseModel):
    positives: list[str]
    junk: list[str] = []
    box: Box | None = None
    subset: str | None = None


class _GroundTruth(BaseModel):
    name: str = Field(min_length=1)
    protocol: str = ""
    images: dict[str, _ImageEntry] = {}
    database: list[str]
    queries: dict[str, _QueryEntry]


def _from_json(file: Path) -> LabelledSet:
    data = file.read_bytes()
    try:
        raw = parse_json(data, object_pairs_hook=_no_repeats)
        _refuse_near_misses(raw)
        truth = _GroundTruth.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = " → ".join(str(step) for step in first["loc"]) or "the whole file"
        raise GroundTruthError(f"{file}: {where}: {first['msg']}") from error
    except ValueError as error:
        raise GroundTruthError(f"{file}: {error}") from error
    database = frozenset(truth.database)
    labelled = LabelledSet(
        name=truth.name,
        file=file,
        root=file.parent,
        database=tuple(truth.database),
        queries=tuple(_query(file, path, entry, database) for path, entry in truth.queries.items()),
        protocol=truth.protocol,
        groups={path: entry.instance for path, entry in truth.images.items() if entry.instance is not None},
        revision=hashlib.sha256(data).hexdigest(),
    )
    _check_files(labelled)
    for query in labelled.queries:
        if query.box is not None:
            entry = truth.images.get(query.path, _ImageEntry())
            size = entry.size or _upright_size(labelled, query.path)
            _check_box(query.box, size, f"{file}: query {query.path}")
    return labelled


def _query(file: Path, path: str, entry: _QueryEntry, database: frozenset[str]) -> Query:
    itself = {path} & database
    positives = frozenset(entry.positives) - itself
    if entry.positives and not positives:
        raise GroundTruthError(
            f"{file}: query {path} has only itself as a positive: list another, or none if there is no answer"
        )
    return Query(path, positives, frozenset(entry.junk) - itself, entry.box, entry.subset)


def _from_folders(root: Path) -> LabelledSet:
    from resight.images.sources import find_sources

    revision = hashlib.sha256()
    objects: dict[str, list[str]] = {}
    for source in find_sources([root], on_problem=refuse):
        path = Path(source.origin).relative_to(root)
        if len(path.parts) < 2:
            raise GroundTruthError(
                f"{source.origin}: lies beside the objects' folders; move it into one, or into {DISTRACTORS}"
            )
        objects.setdefault(path.parts[0], []).append(path.as_posix())
        revision.update(f"{path.as_posix()}\0{source.bytes}\n".encode())
    distractors = objects.pop(DISTRACTORS, [])
    queries = [Query(path, frozenset(paths) - {path}) for paths in objects.values() if len(paths) > 1 for path in paths]
    if not queries:
        raise GroundTruthError(
            f"{root}: no gt.json, and no sub-folder with two images of one object; make one or the other"
        )
    return LabelledSet(
        name=root.name,
        file=root,
        root=root,
        database=(*(path for paths in objects.values() for path in paths), *distractors),
        queries=tuple(queries),
        protocol="leave one out; positives are the other images of the object's folder",
        groups={path: name for name, paths in objects.items() for path in paths},
        revision=revision.hexdigest(),
        distractors=len(distractors),
    )


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """json keeps the last of two equal keys and says nothing: half of a query's answers would be lost."""
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)} is there twice in one table")
    return table


def _refuse_near_misses(raw: object) -> None:
    """A ``bbox`` or ``positive`` read as a mere annotation would change the protocol silently."""
    if not isinstance(raw, dict):
        return
    _refuse_near_miss("the file", raw, _GroundTruth)
    queries = raw.get("queries")
    for path, entry in queries.items() if isinstance(queries, dict) else ():
        _refuse_near_miss(f"query {path}", entry, _QueryEntry)


def _refuse_near_miss(where: str, table: object, model: type[BaseModel]) -> None:
    known = list(model.model_fields)
    for key in table if isinstance(table, dict) else ():
        if key not in known and (close := difflib.get_close_matches(key, known, n=1, cutoff=0.8)):
            raise ValueError(f"{where} has the key {key!r} where {close[0]!r} is read; rename it")


def _check_files(labelled: LabelledSet) -> None:
    wanted = dict.fromkeys([*labelled.database, *(query.path for query in labelled.queries)])
    missing = [path for path in wanted if not _is_file(labelled.locate(path))]
    if missing:
        raise GroundTruthError(
            f"{labelled.file}: {len(missing)} of {len(wanted)} images are missing, the first {missing[0]}; "
            f"put them under {labelled.root}, or take them out of the file"
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long for any file
        return False


def _check_box(box: Box, size: tuple[int, int], where: str) -> None:
    x1, y1, x2, y2 = box
    if not (all(map(math.isfinite, box)) and 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]):
        raise GroundTruthError(
            f"{where}: box {list(box)} is empty or leaves the image of {size[0]} × {size[1]} pixels; "
            "give [x1, y1, x2, y2] in upright pixels"
        )


def _upright_size(labelled: LabelledSet, path: str) -> tuple[int, int]:
    from resight.images.apart import read_image_apart

    try:
        return read_image_apart(labelled.locate(path), max_side=64).size
    except ImageError as error:
        raise GroundTruthError(f"{labelled.file}: query {path} has a box but cannot be read: {error.reason}") from error
