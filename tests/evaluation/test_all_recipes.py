"""Every recipe that comes with resight, checked whole on small siblings: random networks, or the real ones at hand.

`make test` runs a few and one more, another each day, so that all but a few long ones have had their turn after as many
days as there are recipes; `make test-all` runs all. RESIGHT_TEST_PART says which those further ones are, as `resight
recipes check --part` has it: K/N, every N-th from the K-th on. RESIGHT_TEST_PART=0x$(git rev-parse HEAD)/70 goes by
commits.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from small_recipes import HASHING, SIBLINGS, labelled_copy, small_stage  # noqa: E402

from resight.errors import RecipeError  # noqa: E402
from resight.evaluation import load_labelled  # noqa: E402
from resight.evaluation.check_recipes import measure, part_of  # noqa: E402
from resight.evaluation.made_ready import Kit, fit_all, with_weights_from  # noqa: E402
from resight.local.doap import l2net  # noqa: E402
from resight.local.patch_network import AffNet, OriNet  # noqa: E402
from resight.networks.compact import Compact, save_compact  # noqa: E402
from resight.recipes import load_recipe, recipe_names  # noqa: E402
from resight.recipes.local_stages import LayerStage, MapStage  # noqa: E402

WEIGHTS = Path(os.environ.get("RESIGHT_TEST_DATA", Path(__file__).parents[3] / "shared/data")) / "weights"
TRAINED = {"nonmetric": "nonmetric", "reranking-transformer": "transformer"}  # by `resight train`, nothing else
# Its turn is a day, or what RESIGHT_TEST_PART says; the others are for `make test-all`.
# Some take ten seconds and more, and have no turn.
LONG = {"aliked-asmk", "ccs", "fom", "gem-dsm", "hardtfeat-asmk"}
TURN = os.environ.get("RESIGHT_TEST_PART") or f"{datetime.now(UTC).toordinal()}/{len(recipe_names())}"
QUICK = {"nonmetric", "rootsift-bow", *(set(part_of(recipe_names(), TURN)) - LONG)}


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
    elif recipe.local is not None and recipe.local.detector == "doap":
        torch.manual_seed(0)
        for file, network in (("DOAP", l2net()), ("AffNet", AffNet()), ("OriNet", OriNet())):
            prefix = "features." if file == "DOAP" else ""
            torch.save({prefix + key: value for key, value in network.state_dict().items()}, folder / f"{file}.pth")
        update["local"] = recipe.local.model_copy(update={"weights": str(folder), "max_features": 60})
    elif recipe.local is not None and recipe.local.detector == "compact":
        torch.manual_seed(0)
        save_compact(Compact(), folder / "compact.safetensors", {})
        given = {"weights": str(folder / "compact.safetensors"), "max_features": 60}
        update["local"] = recipe.local.model_copy(update=given)
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
