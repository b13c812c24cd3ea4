"""Training a recipe on photos without labels, from checks to report (survey §5.2)."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.load import load_labelled
from resight.evaluation.report import Report
from resight.fitted import PhotoSketch
from resight.images.read import digest, load
from resight.learning.facts import add_figures, facts_of, figures_of, replace_text
from resight.learning.launch import check_devices, launch
from resight.learning.model import make_model
from resight.learning.prepare import Job, weights_of, with_weights
from resight.learning.ranks import barrier, ranks
from resight.learning.report import write_report
from resight.learning.run import FACTS, RUNS, heard, publish
from resight.learning.schemes.embedding import trained, whitening
from resight.learning.task import Lesson
from resight.learning.trainer import Outcome, Progress
from resight.learning.trainer import run as run_task
from resight.learning.unlabelled.clusters import check_clusters
from resight.learning.unlabelled.colmap import find_models
from resight.learning.unlabelled.photos import readable, unlabelled_photos
from resight.learning.unlabelled.settings import UnlabelledTraining
from resight.learning.unlabelled.stages import ColmapStage, KmeansStage
from resight.learning.unlabelled.task import UnlabelledTask
from resight.learning.validate import readable_part
from resight.learning.whiten import check_photos, whiten
from resight.learning.write import check_goes, write_recipe
from resight.recipes.recipe import Recipe, load_recipe

_PHASE = "unlabelled"


def train_unlabelled(
    recipe: Recipe | str | Path,
    photos: Sequence[str | Path],
    *,
    settings: UnlabelledTraining,
    into: Path,
    validate: LabelledSet | str | Path | None = None,
    weights: Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Path:
    """Train a recipe's network on photos of which nothing is known, and write the folder ``into``.

    photos: folders, or whatever ``find_sources`` takes. validate: a labelled set, whose images are left out of what is
        learned; it decides which weights are kept, and is what the report's figures are of.
    The rest, and the folder, is as ``resight.learning.run.train`` has it. Raises as that does.
    """
    into = into.absolute()
    if resume and (into / FACTS).is_file():
        return into
    if into.exists() and (not into.is_dir() or any(into.iterdir())) and not resume:
        raise RecipeError(f"{into}: is not an empty folder; choose another --into, or go on with it by --resume")
    base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    job = prepare_unlabelled(base, photos, settings, into / RUNS, validate, weights, resume)
    folder = job.folder / _PHASE
    done = folder / "outcome.json"
    if not done.is_file():
        with heard(settings.devices, progress) as report:
            outcome = launch(settings, _phase, job, folder, report)
        replace_text(done, json.dumps(asdict(outcome)) + "\n")
    outcomes: dict[str, Any] = {_PHASE: json.loads(done.read_text(encoding="utf-8"))}
    publish(folder / "recipe", into)
    before, after = figures_of(job, into, workers, progress)
    add_figures(into, before, after)
    facts = {**facts_of(job, outcomes, before, after), "mined by": settings.unlabelled.kind}
    write_report(into / "report.html", facts, {_PHASE: folder}, after if isinstance(after, Report) else None)
    replace_text(into / FACTS, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return into


def prepare_unlabelled(
    recipe: Recipe,
    photos: Sequence[str | Path],
    settings: UnlabelledTraining,
    folder: Path,
    validate: LabelledSet | str | Path | None = None,
    weights: Path | None = None,
    resume: bool = False,
) -> Job:
    """Read and check all that a training needs. Raises as ``train_unlabelled``."""
    check_devices(settings)
    recipe = with_weights(recipe, weights)
    if recipe.global_ is None:
        raise RecipeError(f"recipe {recipe.name} has no [global] table, which is what photos without labels train")
    check_goes(recipe, settings.learns)
    how = whitening(recipe.global_, settings)
    held_out = validate if validate is None or isinstance(validate, LabelledSet) else load_labelled(validate)
    skip = settings.unreadable == "skip"
    learned = readable(unlabelled_photos(photos, held_out), skip=skip)
    if held_out is not None:
        held_out = readable_part(held_out, workers=settings.readers, skip=skip)
    check_photos(recipe.global_, len(learned.photos), learned.name, how, dimensions=settings.dimensions)
    _check_method(settings, len(learned.photos))
    identity = {
        "recipe": recipe.fingerprint,
        "weights": weights_of(recipe),
        **settings.identity,
        "set": learned.name,
        "set revision": learned.revision,
        "set selection": learned.selection,
        "photos": len(learned.photos),
        "validation": None if held_out is None else f"{held_out.name} {held_out.revision} {held_out.selection}",
        "phase": _PHASE,
    }
    return Job(recipe, _PHASE, Lesson(learned, held_out, settings), identity, folder, resume)


def _check_method(settings: UnlabelledTraining, photos: int) -> None:
    """What can be known before a network has described anything."""
    stage = settings.unlabelled
    if isinstance(stage, ColmapStage):
        find_models(Path(stage.model))
    if isinstance(stage, KmeansStage):
        check_clusters(stage.clusters, photos)


def make(recipe: Recipe, lesson: Lesson, folder: Path) -> UnlabelledTask:
    """The recipe's network and what it learns from, in a run's folder. Raises as ``make_model``, ``UnlabelledTask``."""
    if recipe.global_ is None:
        raise ValueError("the recipe has no [global]")
    settings = lesson.settings
    model = make_model(
        recipe.global_, weights=None, learns=settings.learns, recipe_name=recipe.name, seed=settings.seed
    )
    return UnlabelledTask(model, lesson, folder)


def write(task: UnlabelledTask, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    """The trained network as a recipe, whitened by the photos as settings have it."""
    if recipe.global_ is None:
        raise ValueError("the recipe has no [global]")
    photos, settings = lesson.photos, lesson.settings
    sketch = PhotoSketch.of(digest(load(str(photo.path))) for photo in photos.photos)
    facts = {**trained(lesson), "classes": None, "revision": None, "mined by": task.stage.kind}
    write_recipe(task.model, recipe, into, trained=facts, photos=sketch)
    whiten(into, photos, how=whitening(recipe.global_, settings), seed=settings.seed, dimensions=settings.dimensions)


def _phase(fabric: Fabric, job: Job, folder: Path, progress: Progress) -> Outcome:
    """In each process that trains: the run, and what it learned as a recipe."""
    task = make(job.recipe, job.lesson, folder)
    kept = folder / "views.npy"
    try:
        task.keep_in(folder)
        outcome = run_task(
            task, job.lesson.settings, folder, fabric, identity=job.identity, resume=job.resume, progress=progress
        )
    finally:
        if ranks()[0] == 0:
            kept.unlink(missing_ok=True)
    if ranks()[0] == 0:
        part, whole = folder / ".recipe.part", folder / "recipe"
        for old in (part, whole):
            shutil.rmtree(old, ignore_errors=True)
        task.module.eval().to("cpu")
        write(task, job.recipe, job.lesson, part)
        part.replace(whole)
        shutil.rmtree(task.mined_in, ignore_errors=True)
    barrier()
    return outcome
