"""Every recipe measured on every set, in cells that are kept: a leaderboard is made again from where it was left."""

import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resight.errors import ResightError
from resight.evaluation.check_recipes import Checked, OutOfTime, measure, within
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.leaderboard import Cell, Leaderboard, read_cells
from resight.evaluation.made_ready import Kit, Report, is_ready, make_ready, readiness
from resight.evaluation.measure import versions
from resight.evaluation.shared import Shared
from resight.evaluation.study import check_names
from resight.evaluation.study_progress import SURVEY, read_published
from resight.recipes.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from resight.search.collection import Progress


def run_leaderboard(
    sets: Sequence[LabelledSet],
    names: Sequence[str],
    kit: Kit,
    into: Path,
    *,
    limit: float | None = None,
    workers: int | None = None,
    report: Report = lambda phase, done, total: None,
) -> Leaderboard:
    """Every recipe, by name, file or folder, on every set; the files in ``into`` are there after each cell.

    What ``into`` has of an earlier call is taken over where nothing that decides it has changed, and kept also where it
    is not asked for now; what failed is tried again. Recipes that come with resight are made ready in ``into`` by the
    kit, whose photos should be none of the sets'.
    Of recipes with nothing but a global descriptor that fit and describe alike, the first does so for all of them.
    limit: seconds for making a recipe ready, and again for each set. What is not done then has failed, and is tried
        again with a greater limit only. Time is told by progress, so a step that reports none ends later.
    Raises ResightError where sets or recipes are called alike, a recipe does not load, or ``into`` has something else.
    """
    check_names(sets)
    labels = [_label(name) for name in names]
    for label in labels:
        if labels.count(label) > 1:
            raise ResightError(f"two of the recipes are called {label}: name each once")
    done = {(cell.checked.set, cell.checked.recipe): cell for cell in read_cells(into / "results.json")}
    with tempfile.TemporaryDirectory(prefix="resight-leaderboard-") as folder:
        _measure(sets, dict(zip(names, labels, strict=True)), kit, into, Path(folder), done, limit, workers, report)
    board = _board(done, sets)
    board.write(into)
    return board


def _measure(
    sets: Sequence[LabelledSet],
    labels: Mapping[str, str],
    kit: Kit,
    into: Path,
    folder: Path,
    done: dict[tuple[str, str], Cell],
    limit: float | None,
    workers: int | None,
    report: Report,
) -> None:
    """Add to ``done`` what lacks there. labels: of the recipes, by name. folder: for collections."""
    shared = Shared(tuple(labels), folder)
    published = {(m.set.casefold(), m.system): m.mean_average_precision for m in read_published(SURVEY)}
    for name, label in labels.items():
        ready = readiness(name, kit)
        keys = {s.name: f"{ready[:16]} {s.revision} {s.selection} {len(s.database)}" for s in sets}
        known = {s.name: done.get((s.name, label)) for s in sets}
        wanted = [s for s in sets if (cell := known[s.name]) is None or not cell.stands(keys[s.name], limit)]
        place = into / "recipes" / f"{label}-{ready[:8]}"
        if not wanted:
            if place.exists():
                shared.made(name, place)
            continue
        began = time.monotonic()
        recipe = _made(name, kit, place, shared, workers, _limited(limit, label, report))
        for labelled in wanted:
            found: Checked | ResightError
            if isinstance(recipe, ResightError):
                found = recipe
            else:
                told = _limited(limit, label, report)
                found = _measured(name, label, recipe, labelled, shared, workers, told)
            done[labelled.name, label] = Cell(
                key=keys[labelled.name],
                checked=found if isinstance(found, Checked) else Checked(labelled.name, label, failure=str(found)),
                published=published.get((labelled.name.casefold(), label)),
                versions=versions(),
                machine=machine(),
                seconds=round(time.monotonic() - began, 2),
                limit=limit if isinstance(found, OutOfTime) else None,
            )
            began = time.monotonic()
            _board(done, sets).write(into)


def _made(
    name: str, kit: Kit, into: Path, shared: Shared, workers: int | None, report: Report
) -> Recipe | ResightError:
    try:
        recipe = make_ready(name, kit, into, like=shared.made(name), workers=workers, report=report)
    except ResightError as error:
        return error
    shared.made(name, into)
    return recipe


def _measured(
    name: str,
    label: str,
    recipe: Recipe,
    labelled: LabelledSet,
    shared: Shared,
    workers: int | None,
    report: Report,
) -> Checked | ResightError:
    def told(progress: "Progress") -> None:
        report(progress.phase, progress.done, progress.total)

    try:
        with shared.collection(name, recipe, labelled) as folder:
            return measure(label, recipe, labelled, collection=folder, workers=workers, progress=told)
    except ResightError as error:
        return error


def _limited(limit: float | None, label: str, report: Report) -> Report:
    """``report`` that is told whose progress it is, and raises OutOfTime."""
    return within(limit, lambda phase, done, total: report(f"{label}: {phase}", done, total))


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


def machine() -> str:
    """What this machine is, for a reader of milliseconds."""
    facts = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", facts.read_text(), re.MULTILINE) if facts.exists() else None
    kind = f" ({named[1].strip()})" if named else ""
    return f"{platform.system()} {platform.machine()}{kind}, {os.cpu_count() or 1} CPUs"
