"""Descriptors: any recipe's [global] stage, by any loss of labels (survey §5.1.1–2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from resight.describe.describer import Describer
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.images.read import digest, load
from resight.learning.adapters import check_sets, learn_adapters
from resight.learning.embedding_task import EmbeddingTask, made_loss
from resight.learning.heads import check_trainable
from resight.learning.model import make_model
from resight.learning.task import Lesson, Phase, Task
from resight.learning.whiten import How, check_photos, whiten
from resight.learning.write import check_goes, write_recipe
from resight.recipes.adapters_stage import JOINT
from resight.recipes.network_stages import GlobalStage
from resight.recipes.recipe import Recipe, load_recipe
from resight.recipes.stage import problems

if TYPE_CHECKING:
    from resight.learning.settings import Training


def phases(recipe: Recipe, settings: "Training") -> Sequence[Phase]:
    """One. Raises RecipeError where the recipe has no descriptor, or one with a part that has no gradient, and where
    loss, miner and memory do not go together.
    """
    check_goes(recipe, settings.learns)
    made_loss(settings, 2, 2)
    if recipe.global_ is not None:
        for branch in recipe.global_.branches:
            check_trainable(branch, recipe.name)
        whitening(recipe.global_, settings)
    return [Phase("embedding", make, write)]


def make(recipe: Recipe, lesson: Lesson) -> EmbeddingTask:
    """The recipe's network and the loss. Raises as ``make_model``, ``check_photos``, ``EmbeddingTask``."""
    if recipe.global_ is None:
        raise ValueError("the recipe has no [global]")
    settings = lesson.settings
    photos, (how, adapted) = lesson.photos, _hows(recipe, recipe.global_, lesson)
    check_sets(recipe.global_, lesson.sets, adapted, settings.dimensions)
    check_photos(recipe.global_, len(photos.photos), photos.name, how, dimensions=settings.dimensions)
    model = make_model(
        recipe.global_, weights=None, learns=settings.learns, recipe_name=recipe.name, seed=settings.seed
    )
    old = None if settings.old is None else Describer(load_recipe(settings.old.recipe))
    return EmbeddingTask(model, lesson, old)


def write(task: Task, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    """The trained network as a recipe, whitened by the training photos as settings have it."""
    if not isinstance(task, EmbeddingTask) or recipe.global_ is None:
        raise ValueError("the task is another's")
    photos = lesson.photos
    sketch = PhotoSketch.of(digest(load(str(path))) for path in dict.fromkeys(p.path for p in photos.photos))
    settings, compatible_with = lesson.settings, ""
    if settings.old is not None and settings.old.compatible:
        compatible_with = Describer(load_recipe(settings.old.recipe)).fingerprint
    named = recipe.model_copy(update={"compatible_with": compatible_with})
    write_recipe(task.model, named, into, trained=trained(lesson), photos=sketch)
    whiten_written(into, recipe, lesson)


def whiten_written(folder: Path, recipe: Recipe, lesson: Lesson) -> None:
    """Learn what a written recipe's vectors are whitened by, once they are stored or as adapters, into its folder."""
    if recipe.global_ is None:
        raise ValueError("the recipe has no [global]")
    settings, (how, adapted) = lesson.settings, _hows(recipe, recipe.global_, lesson)
    whiten(folder, lesson.photos, how=how, seed=settings.seed, dimensions=settings.dimensions)
    dimensions = settings.dimensions or recipe.global_.dimensions
    learn_adapters(folder, lesson.sets, how=adapted, seed=settings.seed, dimensions=dimensions)


def _hows(recipe: Recipe, stage: GlobalStage, lesson: Lesson) -> tuple[How, How]:
    """How what is stored is whitened, and how adapters are learned, which whiten in place of that."""
    adapted = adapting(recipe, lesson.settings) if lesson.sets else "none"
    replaced = adapted != "none" and stage.whiten == "image"
    return "none" if replaced else whitening(stage, lesson.settings), adapted


def adapting(recipe: Recipe, settings: "Training") -> How:
    """How adapters are learned of several sets: as settings have whitening, and "auto" also of what is not whitened.

    Raises RecipeError where the recipe does not go with adapters, unless whitening is "none".
    """
    stage = recipe.global_
    keeps = settings.old is not None and settings.old.compatible > 0
    if settings.whitening == "none" or stage is None:
        return "none"
    if settings.whitening == "auto" and (settings.learns.projection or settings.learns.hash_bits or keeps):
        return "none"
    try:
        Recipe.model_validate(
            {**recipe.model_dump(by_alias=True, exclude_none=True), "adapters": {"files": {JOINT: "-"}}}
        )
    except ValidationError as error:
        raise RecipeError(f"recipe {recipe.name}: {problems(error, 'recipe')}; or say whitening = none") from error
    return "pca" if settings.whitening == "auto" else settings.whitening


def whitening(stage: GlobalStage, settings: "Training") -> How:
    """What the recipe is whitened with afterwards. Raises RecipeError where settings contradict the recipe."""
    trains = bool(settings.learns.projection or settings.learns.hash_bits)
    keeps = settings.old is not None and settings.old.compatible > 0
    if settings.whitening == "auto":
        return "none" if trains or keeps or stage.whiten == "none" else "pca"
    if settings.whitening != "none" and keeps:
        raise RecipeError(
            f"whitening = {settings.whitening} would turn the vectors away from the old recipe's: say whitening = none"
        )
    if settings.whitening != "none" and trains:
        raise RecipeError(
            f"whitening = {settings.whitening}, but a projection or codes are learned with the network: say "
            "whitening = none, or leave out learns.projection and learns.hash_bits"
        )
    if settings.whitening != "none" and stage.whiten == "none":
        raise RecipeError(f"whitening = {settings.whitening}, but the recipe has whiten = none: say one or the other")
    return settings.whitening


def trained(lesson: Lesson) -> dict[str, Any]:
    """Facts of a training for the recipe that it leaves."""
    photos = lesson.photos
    return {
        "on": photos.name,
        "revision": photos.revision,
        "split": photos.selection or None,
        "classes": len(photos.classes),
        "photos": len(photos.photos),
        "sets": ", ".join(f"{part.name} ({part.classes} objects)" for part in photos.parts) or None,
        "settings": lesson.settings.model_dump(mode="json"),
    }
