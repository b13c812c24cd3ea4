"""Every recipe on every set: how good, how quick, how large; a table that is made again where it was left."""

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from resight.errors import ResightError
from resight.evaluation.check_recipes import Checked, check
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.made_ready import Kit, Report, is_ready, readiness
from resight.evaluation.measure import versions
from resight.evaluation.plot import markdown
from resight.evaluation.study import check_names
from resight.evaluation.study_progress import SURVEY, read_published
from resight.recipes.recipe import load_recipe

_FORMAT, _VERSION = "resight-leaderboard", 1


@dataclass(frozen=True)
class Cell:
    """One recipe on one set. key: of all that decides it, so that what is done is not done again.

    published: the survey's mAP of the system on the set, a fraction; None where it has none.
    """

    key: str
    checked: Checked
    published: float | None
    versions: Mapping[str, str]
    machine: str


@dataclass(frozen=True)
class Leaderboard:
    """Cells, set by set in the order given, in each the best first."""

    cells: tuple[Cell, ...]

    def table(self) -> str:
        """Markdown: for each set a table of recipes, the best first; last those that could not run, and why."""
        blocks = []
        for name in dict.fromkeys(cell.checked.set for cell in self.cells):
            rows = [_row(cell) for cell in self.cells if cell.checked.set == name and not cell.checked.failure]
            if rows:
                head = ("recipe", "mAP", "P@1", "ms a query", "bytes an image", "published mAP", "learned from it")
                blocks.append(f"## {name}\n\n{markdown((head, *rows))}")
            failed = [(c.checked.recipe, c.checked.failure) for c in self.cells if c.checked.set == name]
            failed = [(recipe, " ".join(why.split())) for recipe, why in failed if why]
            if failed:
                blocks.append(f"## {name}: not measured\n\n{markdown((('recipe', 'why'), *failed))}")
        return "\n\n".join(blocks)

    def write(self, into: Path) -> None:
        """Write leaderboard.md, results.csv and results.json into a folder, each whole or not at all."""
        into.mkdir(parents=True, exist_ok=True)
        facts = {"format": _FORMAT, "version": _VERSION, "cells": [asdict(cell) for cell in self.cells]}
        _replace(into / "results.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        _replace(into / "leaderboard.md", f"# Leaderboard\n\n{_HOW}\n\n{self.table()}\n")
        temporary = into / f".results.{os.getpid()}.csv"
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*(field.name for field in fields(Checked)), "published", "machine"])
            writer.writerows((*astuple(c.checked), c.published, c.machine) for c in self.cells)
        temporary.replace(into / "results.csv")


_HOW = (
    "mAP and P@1 in per cent, by `resight evaluate`. Milliseconds are the median query, one at a time: describing it, "
    "where its image is not in the database, and searching. Bytes are the collection's on disk. Published mAP is what "
    "the survey's Tables 2 and 3 have of the system on the set; what differs here, `resight recipes show` tells. The "
    "last column is the share of the set's photos that a recipe learned from: above 0, its figures are too good."
)


def run_leaderboard(
    sets: Sequence[LabelledSet],
    names: Sequence[str],
    kit: Kit,
    into: Path,
    *,
    workers: int | None = None,
    report: Report = lambda phase, done, total: None,
) -> Leaderboard:
    """Every recipe, by name, file or folder, on every set; the files in ``into`` are there after each cell.

    What ``into`` has of an earlier call is taken over where nothing that decides it has changed, and kept also where it
    is not asked for now; what failed is tried again. Recipes that come with resight are made ready in ``into`` by the
    kit, whose photos should be none of the sets'.
    Raises ResightError where sets or recipes are called alike, a recipe does not load, or ``into`` has something else.
    """
    check_names(sets)
    labels = [_label(name) for name in names]
    for label in labels:
        if labels.count(label) > 1:
            raise ResightError(f"two of the recipes are called {label}: name each once")
    done = {(cell.checked.set, cell.checked.recipe): cell for cell in _read(into / "results.json")}
    published = {(m.set.casefold(), m.system): m.mean_average_precision for m in read_published(SURVEY)}
    for name, label in zip(names, labels, strict=True):
        ready = readiness(name, kit)
        for labelled in sets:
            key = f"{ready[:16]} {labelled.revision} {labelled.selection} {len(labelled.database)}"
            known = done.get((labelled.name, label))
            if known is not None and known.key == key and not known.checked.failure:
                continue
            made = into / "recipes" / f"{label}-{ready[:8]}"
            found = replace(check(name, labelled, kit, made, workers=workers, report=report), recipe=label)
            score = published.get((labelled.name.casefold(), label))
            done[labelled.name, label] = Cell(key, found, score, versions(), _machine())
            _board(done, sets).write(into)
    board = _board(done, sets)
    board.write(into)
    return board


def _board(done: Mapping[tuple[str, str], Cell], sets: Sequence[LabelledSet]) -> Leaderboard:
    """Sets in the order given, then those from before; the best recipe first, those without a figure last."""
    places = {labelled.name: place for place, labelled in enumerate(sets)}

    def order(cell: Cell) -> tuple[int, str, float, str]:
        score = cell.checked.mean_average_precision
        at = places.get(cell.checked.set, len(places))
        return at, cell.checked.set, 1.0 if score is None else -score, cell.checked.recipe

    return Leaderboard(tuple(sorted(done.values(), key=order)))


def _label(name: str) -> str:
    """What a recipe is called in the table: its folder, or its own name."""
    return Path(name).absolute().name if is_ready(name) and Path(name).is_dir() else load_recipe(name).name


def _row(cell: Cell) -> tuple[str, ...]:
    c = cell.checked
    return (
        c.recipe,
        _percent(c.mean_average_precision),
        _percent(c.precision_at_1),
        "–" if c.milliseconds is None else f"{c.milliseconds:.1f}",
        "–" if c.bytes_per_image is None else f"{c.bytes_per_image:,.0f}",
        _percent(cell.published),
        "not known" if c.fitted_share is None else f"{100 * c.fitted_share:.3g} %",
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count() or 1} CPUs"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _read(path: Path) -> list[Cell]:
    if not path.exists():
        return []
    try:
        table: Any = json.loads(path.read_text(encoding="utf-8"))
        if (table["format"], table["version"]) != (_FORMAT, _VERSION):
            raise ResightError(f"{path}: is no leaderboard of this version: choose another --into")
        return TypeAdapter(list[Cell]).validate_python(table["cells"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ResightError(f"{path}: is no leaderboard, or damaged: choose another --into, or remove it") from error
