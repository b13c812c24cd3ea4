"""Giving images the facts of a sidecar file: which row is of which image, and all in one transaction."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resight.errors import ResightError
from resight.store.catalogue import Catalogue
from resight.store.metadata import give
from resight.store.sidecar import Row, read_sidecar

_SHOWN = 5


@dataclass(frozen=True)
class RowProblem:
    """A row that is not of exactly one image, and why. number: as in ``Row``."""

    number: int
    path: str
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """What an import did: facts given to images, and rows left out."""

    images: int
    facts: int
    problems: tuple[RowProblem, ...]

    @property
    def shown(self) -> str:
        """The first few problems in one line."""
        return _told(self.problems)


def import_sidecar(catalogue: Catalogue, file: str | Path, *, key: str = "path", strict: bool = False) -> ImportReport:
    """Give images the facts of a CSV or JSON file (``read_sidecar``), all or none.

    A row's path is that of an image if it is absolute, or from the file's folder, or else if it is what the path of
    just one image ends in, whole names. Unicode forms are not told apart. An empty value takes back what was given.
    Rows that match no image or several, or an image that an earlier row matches, are left out and reported.

    Raises ResightError where the file cannot be used and, if `strict`, where a row would be left out.
    """
    rows = read_sidecar(file, key)
    matched, problems = _matched(catalogue, rows, Path(file))
    if problems and strict:
        raise ResightError(f"{file}: nothing was imported: {_told(problems)}")
    with catalogue.transaction() as db:
        for image, row in matched.items():
            give(db, image, row.facts)
    given = sum(value is not None for row in matched.values() for value in row.facts.values())
    return ImportReport(len(matched), given, tuple(problems))


def _told(problems: Sequence[RowProblem]) -> str:
    """How many rows were left out, and why the first few were."""
    rows = "1 row is" if len(problems) == 1 else f"{len(problems):,} rows are"
    first = "; ".join(f"row {p.number} ({p.path}): {p.reason}" for p in problems[:_SHOWN])
    return f"{rows} not of one image: {first}{'; …' if len(problems) > _SHOWN else ''}"


def _matched(catalogue: Catalogue, rows: Sequence[Row], file: Path) -> tuple[dict[int, Row], list[RowProblem]]:
    """The row of each image that has one."""
    folder = os.path.abspath(file.parent)  # noqa: PTH100 - like origins, `..` taken out and links kept
    paths = {row.path for row in rows if row.path}
    exact = {path: _composed(os.path.normpath(os.path.join(folder, path))) for path in paths}  # noqa: PTH118
    ends = {path: _composed(os.path.normpath(path)) for path in paths}
    at, ending = _find(catalogue, set(exact.values()), set(ends.values()))
    matched: dict[int, Row] = {}
    problems = []
    for row in rows:
        if not row.path:
            problems.append(RowProblem(row.number, row.path, "it names no image"))
            continue
        found = at.get(exact[row.path]) or ending.get(ends[row.path], [])
        if len(found) != 1:
            reason = f"{len(found):,} images have a path that ends in it" if found else "no image has this path"
            problems.append(RowProblem(row.number, row.path, reason))
        elif found[0] in matched:
            reason = f"row {matched[found[0]].number} is of the same image"
            problems.append(RowProblem(row.number, row.path, reason))
        else:
            matched[found[0]] = row
    return matched, problems


def _find(catalogue: Catalogue, exact: set[str], ends: set[str]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Ids by the wanted paths that are theirs, and by the wanted ends of theirs.

    One pass over the catalogue, which keeps only what is wanted.
    """
    lengths = sorted({end.count("/") + 1 for end in ends})
    at: dict[str, list[int]] = {}
    ending: dict[str, list[int]] = {}
    for image, origin in catalogue.each("SELECT id, origin FROM images WHERE id > ? ORDER BY id LIMIT ?", 0):
        path = _composed(origin)
        if path in exact:
            at.setdefault(path, []).append(image)
        for end in _ends(path.split("/"), lengths):
            if end in ends:
                ending.setdefault(end, []).append(image)
    return at, ending


def _ends(names: list[str], lengths: Sequence[int]) -> Iterable[str]:
    return ("/".join(names[-length:]) for length in lengths if length < len(names))


def _composed(path: str) -> str:
    """File systems and spreadsheets write é as one character or two."""
    return unicodedata.normalize("NFC", path)
