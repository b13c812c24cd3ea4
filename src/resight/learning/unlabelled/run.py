"""Training a recipe on photos without labels, from checks to report (survey §5.2)."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning_fabric import Fabric

from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.load import load_labelled
from resight.fitted import PhotoSketch
from resight.images.read import digest, load
from resight.learning.embedding_task import EmbeddingTask
from resight.learning.launch import check_devices
from resight.learning.model import make_model
from resight.learning.prepare import Job, identity_of, with_weights
from resight.learning.ranks import ranks
from resight.learning.run import RUNS, finish, is_done, outcome_of, run_phase
from resight.learning.schemes.embedding import trained, whitening
from resight.learning.task import Lesson
from resight.learning.trainer import Outcome, Progress
from resight.learning.unlabelled.autoencoder import AutoencoderTask
from resight.learning.unlabelled.clusters import check_clusters
from resight.learning.unlabelled.colmap import find_models
from resight.learning.unlabelled.gss import GssTask, make_gss, place_of, write_gss
from resight.learning.unlabelled.photos import readable, unlabelled_photos
from resight.learning.unlabelled.settings import UnlabelledTraining
from resight.learning.unlabelled.stages import AutoencoderStage, ColmapStage, GssStage, KmeansStage
from resight.learning.unlabelled.task import MINED, UnlabelledTask
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
    if is_done(into, resume):
        return into
    base = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    job = prepare_unlabelled(base, photos, settings, into / RUNS, validate, weights, resume)
    outcomes = {_PHASE: outcome_of(job, _PHASE, progress, _phase)}
    finish(job, into, outcomes, workers, progress, {"mined by": settings.unlabelled.kind})
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
    of_network = not isinstance(settings.unlabelled, GssStage)
    if of_network:
        check_goes(recipe, settings.learns)
        how = whitening(recipe.global_, settings)
    else:
        place_of(recipe)
    held_out = validate if validate is None or isinstance(validate, LabelledSet) else load_labelled(validate)
    skip = settings.unreadable == "skip"
    learned = readable(unlabelled_photos(photos, held_out), workers=settings.readers, skip=skip)
    if held_out is not None:
        held_out = readable_part(held_out, workers=settings.readers, skip=skip)
    if of_network:
        check_photos(recipe.global_, len(learned.photos), learned.name, how, dimensions=settings.dimensions)
    _check_method(settings, len(learned.photos))
    lesson = Lesson(learned, held_out, settings)
    return Job(recipe, _PHASE, lesson, identity_of(recipe, lesson), folder, resume)


def _check_method(settings: UnlabelledTraining, photos: int) -> None:
    """What can be known before a network has described anything."""
    stage = settings.unlabelled
    if isinstance(stage, ColmapStage):
        find_models(Path(stage.model))
    if isinstance(stage, KmeansStage):
        check_clusters(stage.clusters, photos)


def make(recipe: Recipe, lesson: Lesson, folder: Path) -> EmbeddingTask | GssTask:
    """What learns of the recipe, and what it learns from, in a run's folder.

    Raises as ``make_model`` and ``UnlabelledTask``, or as ``make_gss``.
    """
    settings = lesson.settings
    if recipe.global_ is None or not isinstance(settings, UnlabelledTraining):
        raise ValueError("the recipe has no [global], or the settings have no table unlabelled")
    stage = settings.unlabelled
    if isinstance(stage, GssStage):
        return make_gss(recipe, lesson, stage)
    model = make_model(
        recipe.global_, weights=None, learns=settings.learns, recipe_name=recipe.name, seed=settings.seed
    )
    if isinstance(stage, AutoencoderStage):
        return AutoencoderTask(model, lesson, stage)
    return UnlabelledTask(model, lesson, folder)


def write(task: EmbeddingTask | GssTask, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    """The trained network as a recipe, whitened by the photos as settings have it; or its trained re-ranking."""
    photos, settings = lesson.photos, lesson.settings
    if recipe.global_ is None or not isinstance(settings, UnlabelledTraining):
        raise ValueError("the recipe has no [global], or the settings have no table unlabelled")
    if isinstance(task, GssTask):
        write_gss(task, recipe, lesson, into)
        return
    sketch = PhotoSketch.of(digest(load(str(photo.path))) for photo in photos.photos)
    facts = {**trained(lesson), "classes": None, "revision": None, "mined by": settings.unlabelled.kind}
    write_recipe(task.model, recipe, into, trained=facts, photos=sketch)
    whiten(into, photos, how=whitening(recipe.global_, settings), seed=settings.seed, dimensions=settings.dimensions)


def _phase(fabric: Fabric, job: Job, folder: Path, progress: Progress) -> Outcome:
    """In each process that trains: the run, and what it learned as a recipe."""
    task = make(job.recipe, job.lesson, folder)
    outcome = run_phase(fabric, job, folder, progress, task, lambda into: write(task, job.recipe, job.lesson, into))
    if ranks()[0] == 0:
        shutil.rmtree(folder / MINED, ignore_errors=True)
    return outcome
