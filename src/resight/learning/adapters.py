"""Adapters of a recipe trained on several sets: a whitening for each set, and one for all of them together (survey §7).

The network learns all sets at once; what is particular to a set, which directions of its vectors tell its things apart,
is a projection of what a collection stores, and each search chooses (``resight.search.adapted``).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from resight.describe.describer import Describer
from resight.describe.learn import prepared_batches
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.learning.facts import replace_text
from resight.learning.whiten import RIDGE, How, Told, drawn, matching_pairs, read_photos
from resight.projection.learned_whitening import learned_whitening_of_pairs
from resight.projection.moments import running_moments
from resight.projection.pca import pca, pca_whitening
from resight.projection.projection import Projection
from resight.recipes.adapters_stage import JOINT
from resight.recipes.network_stages import GlobalStage
from resight.recipes.recipe import load_recipe

if TYPE_CHECKING:
    from resight.learning.datasets.photos import TrainingSet


def learn_adapters(
    folder: Path,
    sets: Mapping[str, "TrainingSet"],
    *,
    how: How = "pca",
    seed: int = 0,
    dimensions: int = 0,
    photos: int = 5000,
    progress: Told = lambda phase, done, total: None,
) -> dict[str, Projection]:
    """Learn a written recipe's adapters, each of a set's photos and with several sets "joint" of all, into its folder.

    The recipe then searches by "joint", or by that of its one set, unless a search names another. how: "pca", which is
    what the recipe's `projection` and `ridge` name, "learned" from pairs of one object, or "none" for no adapters.
    photos: of a set, at most, drawn with the seed. dimensions: after them; 0 for as many as are stored, and no more.
    Raises RecipeError where there are too few photos or they vary too little; ImageError for one that cannot be read.
    """
    if how == "none":
        return {}
    recipe = load_recipe(folder)
    stage, describer = recipe.global_, Describer(recipe)
    network = describer.network
    if stage is None or network is None:
        raise RecipeError(f"{folder}: recipe {recipe.name} has no [global] table to adapt")
    dimensions = min(dimensions or stage.dimensions, stage.dimensions)
    vectors: dict[str, NDArray[np.float32]] = {}
    digests: dict[str, list[str]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    for name, own in sets.items():
        chosen, digests[name] = drawn(own.photos, photos, seed), []
        images = read_photos(describer, chosen, digests[name], progress)
        batches = prepared_batches(network, images)
        vectors[name] = np.concatenate([network.describe_views(batch) for batch in batches])
        labels[name] = np.array([photo.label for photo in chosen])
    if len(sets) > 1:
        shift = np.cumsum([0, *(len(own.classes) for own in sets.values())])
        labels[JOINT] = np.concatenate([labels[name] + by for name, by in zip(sets, shift, strict=False)])
        vectors[JOINT] = np.concatenate([vectors[name] for name in sets])
        digests[JOINT] = [each for name in sets for each in digests[name]]
    made = {}
    for name, x in vectors.items():
        said = f"{len(x):,} photos of {', '.join(sets) if name == JOINT else name}"
        facts: dict[str, Any] = {"fitted_on": said, "descriptor": describer.fingerprint}
        try:
            made[name] = _learned(x, labels[name], name, how, stage, dimensions, seed, facts)
        except RecipeError as error:
            raise RecipeError(f"adapter {name}: {error}") from error
        made[name] = replace(made[name], photos=PhotoSketch.of(digests[name]))
    files = {name: f"adapter-{name}.safetensors" for name in sorted(made)}
    for name, projection in made.items():
        projection.save(folder / files[name])
    table = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    table["adapters"] = {"default": JOINT if len(sets) > 1 else next(iter(sets)), "files": files}
    replace_text(folder / "recipe.toml", tomli_w.dumps(table))
    return made


def check_sets(stage: GlobalStage, sets: Mapping[str, "TrainingSet"], how: How, dimensions: int) -> None:
    """Raises RecipeError where a set has too few photos for its adapter; what to ask before a training.

    dimensions: asked for, or 0.
    """
    wanted = dimensions or stage.dimensions
    for name, own in sets.items():
        if how != "none" and len(own.photos) <= wanted:
            raise RecipeError(
                f"set {name}: an adapter of {wanted} dimensions is learned from more photos than that, and here are "
                f"{len(own.photos)}: choose fewer dimensions, such as {max(2, len(own.photos) // 2)}, or whitening "
                '"none", or give more photos'
            )


def _learned(
    x: NDArray[np.float32],
    labels: NDArray[np.int64],
    name: str,
    how: How,
    stage: GlobalStage,
    dimensions: int,
    seed: int,
    facts: Mapping[str, Any],
) -> Projection:
    if how == "learned":
        first, second = matching_pairs(labels, name, seed)
        return learned_whitening_of_pairs(x, first, second, dimensions, ridge=RIDGE, **facts)
    moments = running_moments(x.shape[1], dimensions)
    moments.update(x)
    if stage.projection == "pca":
        return pca(moments, dimensions, **facts)
    return pca_whitening(moments, dimensions, ridge=stage.ridge, **facts)
