"""Every recipe that comes with resight, checked whole on small siblings: random networks, or the real ones at hand."""

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

from small_recipes import HASHING, SIBLINGS, labelled_copy, small_stage

from resight.errors import RecipeError
from resight.evaluation import load_labelled
from resight.evaluation.check_recipes import measure
from resight.evaluation.made_ready import Kit, fit_all, with_weights_from
from resight.recipes import load_recipe, recipe_names
from resight.recipes.local_stages import LayerStage, MapStage

WEIGHTS = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).parents[3] / "shared/data")) / "weights"
TRAINED = {"nonmetric": "nonmetric", "reranking-transformer": "transformer"}  # by `resight train`, nothing else
# Others are for `make test-all`.
QUICK = ("nonmetric", "rootsift-bow")


def quiet(phase, done, total):
    pass


@pytest.fixture(scope="module")
def views(tmp_path_factory, photos):
    return load_labelled(labelled_copy(photos, tmp_path_factory.mktemp("labelled") / "views"))


def small(name, folder):
    """A recipe's sibling, with weights in the folder."""
    recipe = load_recipe(name)
    update = {}
    if recipe.global_ is not None:
        update["global_"] = small_stage(name, folder)
    if isinstance(recipe.local, LayerStage):
        weights = {"network": "resnet10t", "layer": "layer2", "weights": str(folder / "weights.safetensors")}
        if recipe.global_ is None:
            small_stage("gem-densenet169", folder)
        sizes = {"max_side": 128, "scales": (1.0,), "max_features": 60}
        if isinstance(recipe.local, MapStage):
            reduces = recipe.local.detector == "how" or recipe.local.reduce != "none"
            sizes["dimensions"] = 8 if reduces else 128  # of which the layer has as many
        update["local"] = recipe.local.model_copy(update=weights | sizes)
    elif recipe.local is not None:
        if recipe.local.detector != "sift" and not WEIGHTS.is_dir():
            pytest.skip(f"{WEIGHTS} is absent; RESIGHT_TEST_DATA names the folder that has it")
        if recipe.local.detector == "aliked":
            recipe = with_weights_from(recipe, WEIGHTS / "aliked")
        elif recipe.local.detector == "hardtfeat":
            recipe = with_weights_from(recipe, WEIGHTS)
        update["local"] = recipe.local.model_copy(update={"max_features": 200})
    if recipe.hash is not None:
        update["hash"] = recipe.hash.model_copy(update={"bits": 8})
    return recipe.model_copy(update=update)


def test_each_kind_of_recipe_has_a_sibling():
    described = {name for name in recipe_names() if load_recipe(name).global_}
    assert {*SIBLINGS, *HASHING} | {name for name in described if load_recipe(name).rerank} == described


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in recipe_names()]
)
def test_a_recipe_indexes_searches_and_is_measured(name, views, tmp_path):
    recipe = small(name, tmp_path)
    kit = Kit((str(views.root),), labels=views)
    if name in TRAINED:
        with pytest.raises(RecipeError, match=rf"\[\[rerank\]\] {TRAINED[name]} has to be trained"):
            fit_all(recipe, kit, tmp_path / "fitted", workers=1, report=quiet)
        return
    fitted = fit_all(recipe, kit, tmp_path / "fitted", workers=1, report=quiet)
    found = measure(name, fitted, views, workers=1)
    assert (found.images, found.failure) == (12, "")
    # Half of the twelve pictures would have to be in the way for a random ranking to do better than this.
    assert 0.25 < found.mean_average_precision <= 1 and 0 <= found.precision_at_1 <= 1
    assert found.milliseconds > 0 and found.bytes_per_image > 0
