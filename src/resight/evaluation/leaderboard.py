"""The leaderboard: how good, how quick, how large each recipe is on each set, as a page, a table and a file."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from resight.errors import ResightError
from resight.evaluation.check_recipes import Checked
from resight.evaluation.plot import markdown
from resight.files import output_file, replacing
from resight.parsing import parse_json

_FORMAT, _VERSION = "resight-leaderboard", 2
_FOLDERS = re.compile(r"(?<!\S)/(?:[^\s/]+/)+")  # of an absolute path, which a page for others need not tell


@dataclass(frozen=True)
class Cell:
    """One recipe on one set. key: of all that decides it, so that what is done is not done again.

    published: the survey's mAP of the system on the set, a fraction; None where it has none.
    seconds: what it took; making the recipe ready is in that of the first set that was asked for.
    limit: the seconds that it was not done in; None where it was, or failed for another reason.
    """

    key: str
    checked: Checked
    published: float | None
    versions: Mapping[str, str]
    machine: str
    seconds: float
    limit: float | None = None

    def stands(self, key: str, limit: float | None) -> bool:
        """Whether measuring it again, within a limit, could tell no more."""
        if self.key != key:
            return False
        return not self.checked.failure or (self.limit is not None and limit is not None and limit <= self.limit)


@dataclass(frozen=True)
class Leaderboard:
    """Cells, set by set in the order given, in each the best first."""

    cells: tuple[Cell, ...]

    def table(self) -> str:
        """Markdown: for each set a table of recipes, the best first; last those that could not run, and why."""
        blocks = []
        for name in dict.fromkeys(cell.checked.set for cell in self.cells):
            cells = [cell for cell in self.cells if cell.checked.set == name and not cell.checked.failure]
            if cells:
                sizes = sorted({(cell.checked.queries, cell.checked.images) for cell in cells})
                told = " or ".join(f"{queries:,} queries, {images:,} images indexed" for queries, images in sizes)
                blocks.append(f"## {name}\n\n{told}\n\n{markdown(_rows(cells))}")
        if failed := self._failed():
            blocks.append(f"## Not measured\n\n{markdown((('why', 'recipes', 'sets'), *failed))}")
        return "\n\n".join(blocks)

    def _failed(self) -> list[tuple[str, str, str]]:
        """Why, and the recipes and sets that it holds for; what the same sets fail by for the same reason, together."""
        reasons: dict[tuple[str, str], list[str]] = {}
        for cell in self.cells:
            if cell.checked.failure:
                why = _FOLDERS.sub("", " ".join(cell.checked.failure.split()))
                reasons.setdefault((why, cell.checked.recipe), []).append(cell.checked.set)
        every = len({cell.checked.set for cell in self.cells})
        rows: dict[tuple[str, str], list[str]] = {}
        for (why, recipe), sets in reasons.items():
            rows.setdefault((why, "all" if len(sets) == every else ", ".join(sets)), []).append(recipe)
        return [(why, ", ".join(sorted(recipes)), sets) for (why, sets), recipes in rows.items()]

    def page(self, note: str = "") -> str:
        """The whole page: how it was made, on which machines, with which versions, a note, and the tables."""
        versions: dict[str, set[str]] = {}
        for cell in self.cells:
            for name, version in cell.versions.items():
                versions.setdefault(name, set()).add(version)
        told = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())
        machines = "; ".join(sorted({cell.machine for cell in self.cells}))
        measured = " ".join([f"Measured on {machines}, with {told}.", *([note] if note else [])])
        return f"# Leaderboard\n\n{_HOW}\n\n{measured}\n\n{self.table()}\n"

    def write_page(self, file: Path, note: str = "") -> None:
        """Write the page to a file, whole or not at all. Raises ResightError where it cannot be written."""
        with output_file(file) as partial:
            partial.write_text(self.page(note), encoding="utf-8", newline="")

    def write(self, into: Path) -> None:
        """Write leaderboard.md, results.csv and results.json into a folder, each whole or not at all.

        Raises ResightError where they cannot be written.
        """
        facts = {"format": _FORMAT, "version": _VERSION, "cells": [asdict(cell) for cell in self.cells]}
        rows = io.StringIO(newline="")
        writer = csv.writer(rows, lineterminator="\n")
        writer.writerow([*(field.name for field in fields(Checked)), "published", "seconds", "machine"])
        writer.writerows((*astuple(c.checked), c.published, c.seconds, c.machine) for c in self.cells)
        try:
            into.mkdir(parents=True, exist_ok=True)
            _replace(into / "results.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
            _replace(into / "leaderboard.md", self.page())
            _replace(into / "results.csv", rows.getvalue())
        except OSError as error:
            raise ResightError(
                f"{into}: cannot be written: {error.strerror or error}; choose another --into"
            ) from error


_HEAD = ("recipe", "mAP", "P@1", "ms a query", "bytes an image", "learned from it", "published mAP")
_HOW = (
    "Made by `resight leaderboard`. mAP and P@1 in per cent, as `resight evaluate` has them. Milliseconds are of the "
    "median query, one at a time: describing it, where its image is not in the database, and searching. Bytes are the "
    "collection's on disk. Learned from it is the share of the set's photos that a recipe learned from: above 0, its "
    "figures are too good. Published mAP, if any, is what the survey's Tables 2 and 3 have of the system on the set; "
    "what differs here, `resight recipes show` tells."
)


def _rows(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Head and rows of a set's table; the last column is left out where the survey has no figure on the set."""
    columns = len(_HEAD) - all(cell.published is None for cell in cells)
    return [row[:columns] for row in (_HEAD, *map(_row, cells))]


def _row(cell: Cell) -> tuple[str, ...]:
    c = cell.checked
    return (
        c.recipe,
        _percent(c.mean_average_precision),
        _percent(c.precision_at_1),
        "–" if c.milliseconds is None else f"{c.milliseconds:.1f}",
        "–" if c.bytes_per_image is None else f"{c.bytes_per_image:,.0f}",
        "not known" if c.fitted_share is None else f"{100 * c.fitted_share:.3g} %",
        _percent(cell.published),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _replace(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def read_cells(path: Path) -> list[Cell]:
    """The cells of a results.json; none where there is no such file. Raises ResightError where it is something else."""
    if not path.exists():
        return []
    try:
        table: Any = parse_json(path.read_text(encoding="utf-8"))
        if (table["format"], table["version"]) != (_FORMAT, _VERSION):
            raise ResightError(f"{path}: is no leaderboard of this version: choose another --into")
        return TypeAdapter(list[Cell]).validate_python(table["cells"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ResightError(f"{path}: is no leaderboard, or damaged: choose another --into, or remove it") from error
