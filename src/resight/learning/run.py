"""Training a recipe on a labelled set, from checks to report: ``rs.train`` (survey §5.1)."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric import Fabric

from resight.errors import RecipeError
from resight.evaluation.report import Report
from resight.learning.embedding_task import EmbeddingTask
from resight.learning.facts import add_figures, facts_of, figures_of, figures_of_sets, replace_text
from resight.learning.launch import launch
from resight.learning.optimisation import Optimisation
from resight.learning.prepare import Job, prepare
from resight.learning.ranks import barrier, ranks
from resight.learning.report import write_report
from resight.learning.schemes import SCHEMES
from resight.learning.settings import Training
from resight.learning.splitting import Labelled
from resight.learning.task import Task
from resight.learning.trainer import Outcome, Progress, run
from resight.recipes.recipe import Recipe, load_recipe

RUNS, FACTS = "training", "training.json"
"""In the folder that a training leaves: its runs, a folder a phase; and its facts and figures."""


class Running(Protocol):
    """What is known of a training in each of its processes. identity, folder, resume: as ``Job`` has them."""

    @property
    def settings(self) -> Optimisation: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...

    @property
    def folder(self) -> Path: ...

    @property
    def resume(self) -> bool: ...


def train(
    recipe: Recipe | str | Path,
    labelled: Labelled | Mapping[str, Labelled],
    *,
    settings: Training,
    into: Path,
    validate: Labelled | Mapping[str, Labelled] | float | None = None,
    weights: Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Path:
    """Train a recipe on a labelled set and write the folder ``into``, a recipe to index and search with.

    labelled: or several by their names, from whose photos it learns at once, in batches balanced between them; the
        recipe then has [adapters], one of each set, and ``validate`` is of each: named sets, or a share of each one's.
    validate: a set of other objects, or the share of the set's own objects that is held out; it decides which weights
        are kept, and is what the report's figures are of. None for neither. weights: of the recipe's network.
    resume: go on with what an interrupted training left in ``into``. workers: processes that describe images for the
        report's figures.
    On several devices, call it under ``if __name__ == "__main__"``: they are processes that import the caller's module.
    ``into`` also gets ``training.json``, ``report.html``, and in ``training`` the logs and checkpoints.
    Raises RecipeError and GroundTruthError, before anything is learned, for settings, recipes, photos and folders that
    do not do; then as ``trainer.run``. Ctrl-C leaves a checkpoint.
    """
    into = into.absolute()
    if is_done(into, resume):
        return into
    base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    job = prepare(base, labelled, settings, into / RUNS, validate, weights, resume)
    written, outcomes = job.recipe, {}
    for place, phase in enumerate(SCHEMES[job.scheme](job.recipe, settings)):
        outcomes[phase.name] = outcome_of(job, phase.name, progress, _phase, place, written)
        written = load_recipe(job.folder / phase.name / "recipe")
    finish(job, into, outcomes, workers, progress)
    return into


def is_done(into: Path, resume: bool) -> bool:
    """Whether a training that is to be gone on with has ended. RecipeError where another is begun in a full folder."""
    if resume and (into / FACTS).is_file():
        return True
    if into.exists() and (not into.is_dir() or any(into.iterdir())) and not resume:
        raise RecipeError(f"{into}: is not an empty folder; choose another --into, or go on with it by --resume")
    return False


def finish(
    job: Job,
    into: Path,
    outcomes: Mapping[str, Any],
    workers: int | None,
    progress: Progress,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Leave the recipe of a training's last phase in ``into``, with figures, report and facts.

    outcomes: by phase, in their order. more: facts. workers: as of ``train``.
    """
    runs = {name: job.folder / name for name in outcomes}
    publish(list(runs.values())[-1] / "recipe", into)
    before, after = figures_of(job, into, workers, progress)
    each = figures_of_sets(job, into, workers, progress)
    add_figures(into, before, after, each)
    facts = {**facts_of(job, outcomes, before, after), **each, **(more or {})}
    write_report(into / "report.html", facts, runs, after if isinstance(after, Report) else None)
    replace_text(into / FACTS, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def outcome_of(
    job: Running, name: str, progress: Progress, phase: Callable[..., Outcome], *arguments: Any
) -> dict[str, Any]:
    """The outcome of a phase, which is trained unless that is done, in a folder of its name.

    phase: called as ``phase(fabric, job, folder, progress, *arguments)`` in each process that trains.
    """
    folder = job.folder / name
    done = folder / "outcome.json"
    if not done.is_file():
        with _heard(job.settings.devices, progress) as report:
            outcome = launch(job.settings, phase, job, folder, report, *arguments)
        replace_text(done, json.dumps(asdict(outcome)) + "\n")
    found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return found


def _phase(fabric: Fabric, job: Job, folder: Path, progress: Progress, place: int, recipe: Recipe) -> Outcome:
    phase = SCHEMES[job.scheme](job.recipe, job.lesson.settings)[place]
    task = phase.make(recipe, job.lesson)
    return run_phase(fabric, job, folder, progress, task, lambda into: phase.write(task, recipe, job.lesson, into))


def run_phase(
    fabric: Fabric, job: Running, folder: Path, progress: Progress, task: Task, write: Callable[[Path], None]
) -> Outcome:
    """In each process that trains: the run of a phase, whose name is its folder's, and what it learned as a recipe.

    write: puts that into a folder that is not there yet.
    """
    kept = folder / "views.npy"
    try:
        if isinstance(task, EmbeddingTask):
            task.keep_in(folder)
        identity = {**job.identity, "phase": folder.name}
        outcome = run(task, job.settings, folder, fabric, identity=identity, resume=job.resume, progress=progress)
    finally:
        if ranks()[0] == 0:
            kept.unlink(missing_ok=True)
    if ranks()[0] == 0:
        part, whole = folder / ".recipe.part", folder / "recipe"
        for old in (part, whole):
            shutil.rmtree(old, ignore_errors=True)
        task.module.eval().to("cpu")
        write(part)
        part.replace(whole)
    barrier()
    return outcome


@contextmanager
def _heard(devices: int, progress: Progress) -> Iterator[Progress]:
    """What a process that trains may call to report, from wherever it runs."""
    if devices == 1:
        yield progress
        return
    queue = get_context("spawn").SimpleQueue()

    def listen() -> None:
        while (said := queue.get()) is not None:
            progress(*said)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield partial(_say, queue)
    finally:
        queue.put(None)
        listener.join()


def _say(queue: Any, phase: str, done: int, total: int | None) -> None:
    queue.put((phase, done, total))


def publish(recipe: Path, into: Path) -> None:
    """Put a recipe's files into the folder, linked where that can be done, and recipe.toml, which names them, last."""
    files = sorted((file for file in recipe.rglob("*") if file.is_file()), key=lambda f: f.name == "recipe.toml")
    for file in files:
        target = into / file.relative_to(recipe)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                if file.suffix == ".toml":  # people edit it
                    raise OSError
                os.link(file, target)
            except OSError:
                shutil.copyfile(file, target)
        except OSError as error:
            raise RecipeError(
                f"{target}: cannot be written: {error.strerror or error}; make room, then --resume"
            ) from error
