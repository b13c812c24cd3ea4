"""Training a recipe on a labelled set, from checks to report: ``rs.train`` (survey §5.1)."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.report import Report
from resight.learning.embedding_task import EmbeddingTask
from resight.learning.facts import add_figures, facts_of, figures_of, replace_text
from resight.learning.launch import launch
from resight.learning.prepare import Job, prepare
from resight.learning.ranks import barrier, ranks
from resight.learning.report import write_report
from resight.learning.schemes import SCHEMES
from resight.learning.settings import Training
from resight.learning.trainer import Outcome, Progress, run
from resight.recipes.recipe import Recipe, load_recipe

RUNS, FACTS = "training", "training.json"
"""In the folder that a training leaves: its runs, a folder a phase; and its facts and figures."""


def train(
    recipe: Recipe | str | Path,
    labelled: LabelledSet | str | Path,
    *,
    settings: Training,
    into: Path,
    validate: LabelledSet | str | Path | float | None = None,
    weights: Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Path:
    """Train a recipe on a labelled set and write the folder ``into``, a recipe to index and search with.

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
    if resume and (into / FACTS).is_file():
        return into
    if into.exists() and (not into.is_dir() or any(into.iterdir())) and not resume:
        raise RecipeError(f"{into}: is not an empty folder; choose another --into, or go on with it by --resume")
    base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    job = prepare(base, labelled, settings, into / RUNS, validate, weights, resume)
    written, outcomes = job.recipe, {}
    place_of: dict[str, Path] = {}
    for place, phase in enumerate(SCHEMES[job.scheme](job.recipe, settings)):
        place_of[phase.name] = job.folder / phase.name
        outcomes[phase.name] = _trained(job, place, phase.name, written, progress)
        written = load_recipe(job.folder / phase.name / "recipe")
    publish(job.folder / phase.name / "recipe", into)
    before, after = figures_of(job, into, workers, progress)
    add_figures(into, before, after)
    facts = facts_of(job, outcomes, before, after)
    write_report(into / "report.html", facts, place_of, after if isinstance(after, Report) else None)
    replace_text(into / FACTS, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return into


def _trained(job: Job, place: int, name: str, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Train a phase, unless that is done, in a folder of its name, which gets the recipe that it leaves."""
    folder = job.folder / name
    done = folder / "outcome.json"
    if not done.is_file():
        with heard(job.lesson.settings.devices, progress) as report:
            outcome = launch(job.lesson.settings, _phase, job, place, recipe, folder, report)
        replace_text(done, json.dumps(asdict(outcome)) + "\n")
    found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return found


def _phase(fabric: Fabric, job: Job, place: int, recipe: Recipe, folder: Path, progress: Progress) -> Outcome:
    """In each process that trains: the phase's run, and what it learned as a recipe."""
    settings = job.lesson.settings
    phase = SCHEMES[job.scheme](job.recipe, settings)[place]
    task = phase.make(recipe, job.lesson)
    kept = folder / "views.npy"
    try:
        if isinstance(task, EmbeddingTask):
            task.keep_in(folder)
        identity = {**job.identity, "phase": phase.name}
        outcome = run(task, settings, folder, fabric, identity=identity, resume=job.resume, progress=progress)
    finally:
        if ranks()[0] == 0:
            kept.unlink(missing_ok=True)
    if ranks()[0] == 0:
        part, whole = folder / ".recipe.part", folder / "recipe"
        for old in (part, whole):
            shutil.rmtree(old, ignore_errors=True)
        task.module.eval().to("cpu")
        phase.write(task, recipe, job.lesson, part)
        part.replace(whole)
    barrier()
    return outcome


@contextmanager
def heard(devices: int, progress: Progress) -> Iterator[Progress]:
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
