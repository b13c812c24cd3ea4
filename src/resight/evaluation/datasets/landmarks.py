"""Google Landmarks: retrieval with GLDv2 (Weyand et al., CVPR 2020) and with GLDv1's layout (Noh et al., ICCV 2017)."""

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.datasets.layout import check_counts, needed_file, require_files
from resight.evaluation.labelled import LabelledSet, Query

_PLACES = ("", "metadata/", "ground_truth/", "index/", "test/")
Place = Callable[[str, str], str]
"""Split (``index``, ``test``) and id → path."""

USAGES = {"public": "Public", "private": "Private"}


def load_gldv2(folder: Path, protocol: str, partial: bool) -> LabelledSet:
    """The test images with retrieval ground truth against 761,757 index images.

    Layout, as the set's archives unpack: ``index/a/b/c/ID.jpg`` and ``test/a/b/c/ID.jpg``, a, b, c being the first
    letters of the id, and in the folder, ``metadata/``, ``ground_truth/``, ``index/`` or ``test/`` the files
    ``index.csv`` and ``retrieval_solution_v2.1.csv`` (of Sept 2019; earlier ground truth is another protocol's).
    Protocol: ``private`` or ``public``, which are never averaged: the queries whose Usage says so; ignored ones are no
    queries. mAP@100: rectangular AP of the first 100 over min(R, 100).
    """
    solution = needed_file(folder, [f"{place}retrieval_solution_v2.1.csv" for place in _PLACES])
    return _load(folder, "gldv2", protocol, solution, _nested, check=partial)


def load_gldv1(folder: Path, protocol: str, partial: bool) -> LabelledSet:
    """GLDv1's test images against its index.

    The set was withdrawn, and shrank while it was offered; there is no whole set to compare with, so the counts in the
    report are what it was evaluated on. Layout, as its download script left it: ``index/ID.jpg``, ``test/ID.jpg``,
    ``index.csv`` (a column `id`), and ``retrieval_solution.csv`` with the columns of GLDv2's.
    Protocol: as GLDv2's. Images of index.csv that are gone are left out of the database and the answers, and counted.
    """
    solution = needed_file(folder, [f"{place}retrieval_solution.csv" for place in _PLACES])
    return _load(folder, "gldv1", protocol, solution, _flat, check=None)


def _nested(split: str, image: str) -> str:
    return f"{split}/{image[0]}/{image[1]}/{image[2]}/{image}.jpg"


def _flat(split: str, image: str) -> str:
    return f"{split}/{image}.jpg"


def _load(folder: Path, name: str, protocol: str, solution: Path, place: Place, check: bool | None) -> LabelledSet:
    """check: whether a partial GLDv2 is let through; None where images may be gone."""
    index = needed_file(folder, [f"{where}index.csv" for where in _PLACES])
    database = [place("index", row["id"]) for row in rows(index, ("id",))]
    gone = 0
    if check is None:
        kept = [path for path in database if (folder / path).is_file()]
        gone, database = len(database) - len(kept), kept
    known = frozenset(database)
    queries = []
    for row in rows(solution, ("id", "images", "Usage")):
        if row["Usage"] != USAGES[protocol]:
            continue
        answers = frozenset(place("index", image) for image in row["images"].split() if image != "None")
        queries.append(Query(place("test", row["id"]), answers & known if check is None else answers))
    if not queries:
        raise GroundTruthError(f"{solution}: no query's Usage is {USAGES[protocol]}: get the ground truth again")
    require_files(folder, [*database, *(query.path for query in queries)], index)
    digest = hashlib.sha256(solution.read_bytes() + index.read_bytes()).hexdigest()
    labelled = LabelledSet(
        name=name,
        file=solution,
        root=folder,
        database=tuple(database),
        queries=tuple(queries),
        protocol=f"{solution.stem}, {USAGES[protocol]} part: mAP@100 over min(R, 100)"
        + (f"; {gone:,} index images are gone and left out, of the answers too" if gone else ""),
        revision=digest,
        selection=f"Usage {USAGES[protocol]}",
        average_precision="truncated",
    )
    return labelled if check is None else check_counts(labelled, check, images=761_757)


def rows(file: Path, columns: tuple[str, ...]) -> Iterator[Mapping[str, str]]:
    """The rows of a CSV with a heading. Raises GroundTruthError for missing columns or values and repeated ids."""
    seen: set[str] = set()
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, strict=True)
            if missing := [column for column in columns if column not in (table.fieldnames or ())]:
                raise GroundTruthError(f"{file}: has no column {', '.join(missing)}: get it again")
            for row in table:
                if any(row[column] is None for column in columns) or not row["id"]:
                    raise GroundTruthError(f"{file}: line {table.line_num} is cut short: get it again")
                if len(row["id"]) < 3 or not row["id"].isalnum():
                    raise GroundTruthError(f"{file}: line {table.line_num}: {row['id']!r} is no image's id")
                if row["id"] in seen:
                    raise GroundTruthError(f"{file}: lists {row['id']} twice: get it again")
                seen.add(row["id"])
                yield row
    except (OSError, ValueError, csv.Error) as error:
        raise GroundTruthError(f"{file}: cannot be read: {error}") from error
