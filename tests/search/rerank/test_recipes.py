"""Recipes that come with resight and re-rank: gem-densenet169 and the method that they are named after."""

import numpy as np
import pytest

from resight.describe.description import Description
from resight.errors import RecipeError
from resight.recipes import Recipe, load_recipe, recipe_names
from resight.search.rerank import (
    Database,
    ExploreExploit,
    ManifoldLayer,
    OfflineDiffusion,
    RegularisedDiffusion,
    SuperGlobal,
    initial_ranking,
)
from resight.search.searcher import Searcher
from resight.store.store import New, Store

# The methods with the parameters of the papers or their code, made without the recipes.
METHODS = {
    "egt": lambda database, folder: ExploreExploit(0.42, k=250),
    "ime-cnn": lambda database, folder: ManifoldLayer.fit(database, len(database)),
    "offline-diffusion": lambda database, folder: OfflineDiffusion.build(folder, database),
    "rdp": lambda database, folder: RegularisedDiffusion(alpha=1 / 1.18),
    "superglobal": lambda database, folder: SuperGlobal(),
}
MODELS = "gss", "nonmetric", "reranking-transformer"
KERNELS = {"dmk-cnn": "dynamic", "r-asmk": "r-asmk"}  # which test_kernel.py tests


def test_none_is_left_out():
    # The last four: evaluation/test_all_recipes.py.
    others = {"gem-dsm", "fom", "cnn-aug-ss", "faster-rcnn", "delg", "compact"}
    assert {*METHODS, *MODELS, *KERNELS, *others} == {name for name in recipe_names() if load_recipe(name).rerank}


@pytest.mark.parametrize("name", [*METHODS, "gss", "nonmetric", "fom"])
def test_they_describe_as_the_recipe_they_start_from(name):
    found, base = load_recipe(name), load_recipe("gem-densenet169")
    assert (found.image, found.global_, found.local) == (base.image, base.global_, base.local)


def test_deep_spatial_matching_is_of_the_same_network():
    """Its features and their re-ranking: test_channels.py."""
    recipe = load_recipe("gem-dsm")
    assert recipe.global_ == load_recipe("gem-densenet169").global_
    assert (recipe.local.network, recipe.local.layer) == (recipe.global_.network, recipe.global_.layer)
    assert (recipe.local.detector, recipe.rerank[0].method) == ("dsm", "dsm")


@pytest.mark.parametrize(("name", "kernel"), KERNELS.items())
def test_kernels_match_what_the_default_finds(name, kernel):
    found, base = load_recipe(name), load_recipe("rootsift-asmk")
    (stage,) = found.rerank
    assert (stage.kernel, found.global_) == (kernel, load_recipe("gem-densenet169").global_)
    plain = base.local.model_copy(update={"colours": 0})  # which only [verify] compares
    assert (found.local, found.codebook) == (plain, base.codebook)


def stored(name, folder, vectors):
    table = load_recipe(name).model_dump(by_alias=True)
    table["global"]["dimensions"] = vectors.shape[1]
    store = Store.create(folder, Recipe.model_validate(table), "f")
    descriptions = [Description((9, 9), vector, None) for vector in vectors]
    store.add([New(f"/{n}.png", str(n), 1, 1, d) for n, d in enumerate(descriptions)], [], None)
    return store


@pytest.mark.parametrize("name", METHODS)
def test_they_rank_as_their_method_does(name, tmp_path, draw):
    vectors, query = draw(80), draw(1, seed=9)[0]
    with stored(name, tmp_path / "c", vectors) as store:
        database = Database(store.snapshot().ids, vectors)
        found, _ = Searcher(store).rank(Description((9, 9), query, None), None, None)
        again, _ = Searcher(store).rank(Description((9, 9), query, None), None, None)
    expected = METHODS[name](database, tmp_path / "m").rerank(query, initial_ranking(query, database), database)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=2e-4, atol=1e-6)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.ids, again.ids)


@pytest.mark.parametrize("name", MODELS)
def test_what_has_to_be_learned_is_said(name, tmp_path, draw):
    vectors = draw(3)
    with (
        stored(name, tmp_path / "c", vectors) as store,
        pytest.raises(RecipeError, match="has no model yet"),
    ):
        Searcher(store).rank(Description((9, 9), vectors[0], None), None, None)
