"""What a training needs, read and checked whole before the first step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resight.describe.fit import with_branches
from resight.errors import RecipeError
from resight.evaluation.load import load_labelled
from resight.learning.datasets.photos import training_set
from resight.learning.datasets.pictures import check_readable
from resight.learning.launch import check_devices
from resight.learning.old import with_replayed
from resight.learning.schemes import SCHEMES, scheme_of
from resight.learning.settings import Training
from resight.learning.several import several_lesson
from resight.learning.splitting import Labelled, check_apart, split
from resight.learning.task import Lesson
from resight.learning.validate import readable_part
from resight.networks.weights import file_sha256
from resight.recipes.local_stages import LayerStage, WeightedStage
from resight.recipes.recipe import Recipe, load_recipe


@dataclass(frozen=True, eq=False)
class Job:
    """A training of which all has been checked. identity: what decides it, by key. folder: of its runs."""

    recipe: Recipe
    scheme: str
    lesson: Lesson
    identity: Mapping[str, Any]
    folder: Path
    resume: bool

    @property
    def settings(self) -> Training:
        return self.lesson.settings


def prepare(
    recipe: Recipe,
    labelled: Labelled | Mapping[str, Labelled],
    settings: Training,
    folder: Path,
    validate: Labelled | Mapping[str, Labelled] | float | None = None,
    weights: Path | None = None,
    resume: bool = False,
) -> Job:
    """Read and check all that a training needs. Raises as ``train``."""
    check_devices(settings)
    recipe = with_weights(recipe, weights)
    scheme = scheme_of(recipe, settings)
    if settings.old is not None and scheme != "embedding":
        raise RecipeError(f"scheme = {scheme} does not learn beside an old network: leave out old, or say embedding")
    SCHEMES[scheme](recipe, settings)  # says what does not suit it
    if isinstance(labelled, Mapping):
        lesson = several_lesson(scheme, labelled, settings, validate)
        return Job(recipe, scheme, lesson, identity_of(recipe, lesson), folder, resume)
    if isinstance(validate, Mapping):
        raise RecipeError("sets to validate on have names where those that are learned from have: NAME=SET")
    learned, held_out = split(labelled, validate, settings.seed)
    skip = settings.unreadable == "skip"
    photos = training_set(learned, singletons=settings.singletons, whole=settings.whole)
    photos = check_readable(photos, workers=settings.readers, skip=skip)
    if settings.old is not None and settings.old.photos:
        before = load_labelled(Path(settings.old.photos))
        if held_out is not None:
            check_apart(before, held_out)
        known = training_set(before, singletons=settings.singletons, whole=settings.whole)
        photos = with_replayed(photos, check_readable(known, workers=settings.readers, skip=skip))
    if held_out is not None:
        held_out = readable_part(held_out, workers=settings.readers, skip=skip)
    lesson = Lesson(photos, held_out, settings)
    return Job(recipe, scheme, lesson, identity_of(recipe, lesson), folder, resume)


def identity_of(recipe: Recipe, lesson: Lesson) -> dict[str, Any]:
    """What decides a training, by key: one that goes on must have the same."""
    photos, held_out, beside = lesson.photos, lesson.validation, lesson.settings.old
    old = None if beside is None else load_recipe(beside.recipe)
    several: dict[str, Any] = {}
    if lesson.sets:
        several = {"sampling.sets": lesson.settings.sampling.sets, "sets": {p.name: p.classes for p in photos.parts}}
        several |= {f"validation {name}": f"{v.revision} {v.selection}" for name, v in lesson.validations.items()}
    return {
        "recipe": recipe.fingerprint,
        "weights": _weights_of(recipe),
        **lesson.settings.identity,
        **several,
        **({} if old is None else {"old recipe": old.fingerprint, "old weights": _weights_of(old)}),
        "set": photos.name,
        "set revision": photos.revision,
        "set selection": photos.selection,
        "photos": len(photos.photos),
        "validation": None if held_out is None else f"{held_out.name} {held_out.revision} {held_out.selection}",
    }


def with_weights(recipe: Recipe, weights: Path | None) -> Recipe:
    """The recipe with a weights file in place of its network's own: of [global] and [local] alike, if both have one.

    Raises RecipeError where there is no such file, the recipe has no network, or [local] has another: another network
    whose weights would be downloaded, or other weights of its own.
    """
    if weights is None:
        return recipe
    if not weights.is_file():
        raise RecipeError(f"there is no weights file {weights}; check --weights (or RESIGHT_WEIGHTS)")
    given = {"weights": str(weights.absolute()), "revision": "", "weights_sha256": ""}
    vector, local = recipe.global_, recipe.local
    update: dict[str, Any] = {}
    if vector is not None:
        update["global_"] = with_branches(vector, dict.fromkeys(range(len(vector.branches)), given))
    if isinstance(local, LayerStage) and (vector is None or local.network == vector.network):
        if vector is not None and local.weights and file_sha256(local.weights) != file_sha256(weights):
            raise RecipeError(
                f"recipe {recipe.name}: [global] and [local] have one network, but [local] has weights of its own, "
                f"{local.weights}, which are not those of {weights}: name the weights of both in the recipe, and leave "
                "--weights out"
            )
        update["local"] = local.model_copy(update=given)
    elif isinstance(local, LayerStage) and not local.weights:
        raise RecipeError(
            f"recipe {recipe.name}: [local] has {local.network}, for which weights of another network do not do: name "
            "weights for it in [local], or fit the recipe first with `resight fit` and --local-weights"
        )
    elif isinstance(local, WeightedStage) and (vector is None or vector.network == local.detector):
        update["local"] = local.model_copy(update={key: given[key] for key in ("weights", "weights_sha256")})
    if not update:
        raise RecipeError(f"recipe {recipe.name} has no network: leave --weights out, or choose another recipe")
    return recipe.model_copy(update=update)


def _weights_of(recipe: Recipe) -> list[str]:
    """sha256 of the weights files that a recipe names."""
    stages: Sequence[Any] = recipe.global_.branches if recipe.global_ is not None else ()
    files = [stage.weights for stage in stages if stage.weights]
    if recipe.local is not None and "weights" in type(recipe.local).model_fields:
        files += [file for file in [recipe.model_dump()["local"]["weights"]] if file and Path(file).is_file()]
    return [file_sha256(file) for file in dict.fromkeys(files)]
