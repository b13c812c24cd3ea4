"""Every recipe that hashes, from fit to evaluation, on a small sibling of its network with random weights."""

import shutil

import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from small_recipes import HASHING, labelled_copy  # noqa: E402

from resight.describe.fit import fit_recipe  # noqa: E402
from resight.errors import CollectionError, RecipeError  # noqa: E402
from resight.evaluation import evaluate, load_labelled  # noqa: E402
from resight.evaluation.objects import objects  # noqa: E402
from resight.hashing.linear import fit_lsh  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.recipes import load_recipe, recipe_names  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.fit_hash import Labels, fit_hash  # noqa: E402
from resight.search.vectors import read_vectors  # noqa: E402

BITS = 8  # fewer than there are photos to learn them from


def test_no_recipe_is_left_out():
    assert set(HASHING) == {name for name in recipe_names() if load_recipe(name).hash}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in create_network("resnet10t").state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, photos):
    """The photos as a labelled set, in which those match whose names begin alike."""
    return labelled_copy(photos, tmp_path_factory.mktemp("labelled") / "views")


def made(name, photos, weights, folder, **changed):
    """The folder of a fitted small recipe. changed: keys of [hash]."""
    recipe = load_recipe(name)
    stage = GlobalStage.model_validate(recipe.global_.model_dump() | HASHING[name])
    hashing = recipe.hash.model_copy(update={"bits": BITS, **changed})
    table = recipe.model_copy(update={"global_": stage, "hash": hashing}).model_dump(by_alias=True, exclude_none=True)
    (folder / "small.toml").write_text(tomli_w.dumps(table))
    return fit_recipe(folder / "small.toml", [photos], weights=weights, into=folder / "fitted")


def learn(fitted, labelled, learning):
    """Make the file that a recipe hashes by, as the recipe's comment says to."""
    recipe = load_recipe(fitted)
    with Collection.create(learning, recipe) as collection:
        collection.add([labelled], workers=1)
        with pytest.raises(CollectionError, match=rf"is not learned yet.*--method {recipe.hash.method} --bits {BITS}"):
            collection.search(labelled / "rocket-1.png")
    labels = None
    if recipe.hash.method == "ssdh":
        truth = load_labelled(labelled)
        labels = Labels("views", {str(truth.locate(path)): name for path, name in objects(truth).items()})
    fit_hash(learning, recipe.hash.method, BITS, labels=labels).save(recipe.hash.path)


QUICK = ("ae-hash", "itq-hash", "ssdh")  # learned from vectors, and from labels; the others are for `make test-all`


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HASHING]
)
def test_from_fit_to_evaluation(name, labelled, weights, tmp_path):
    fitted = made(name, labelled, weights, tmp_path)
    recipe = load_recipe(fitted)
    if recipe.hash.from_file:
        assert recipe.hash.path == str(fitted / "hash.safetensors")
        learn(fitted, labelled, tmp_path / "learning")
    report = evaluate(labelled, recipe, collection=tmp_path / "c", workers=1)
    assert (report.figures.queries, report.figures.unanswerable) == (8, 4)
    learned_on = 8 if name == "ssdh" else 12  # what matches nothing has no label
    assert f"{learned_on} " in report.protocol.fitted_on["hash"]
    stored = read_vectors(tmp_path / "c")
    assert len(stored.x) == 12
    with Collection.open(tmp_path / "c", write=True) as collection:
        function = collection.learned()["hash"]
        assert (function.kind, function.bits, function.dimension) == (recipe.hash.method, BITS, stored.x.shape[1])
        signs = np.where(function.project(stored.x) > 0, 1, -1)
        expected = (signs @ signs.T / BITS)[np.argsort(stored.ids)]
        found = [collection.search(image) for image in sorted(stored.ids.tolist())]
        for ranking, scores in zip(found, expected, strict=True):
            np.testing.assert_allclose(ranking.scores, scores[np.searchsorted(stored.ids, ranking.ids)], atol=1e-6)
            assert (np.diff(ranking.scores) <= 0).all()
        assert len({tuple(row) for row in signs.tolist()}) > 3
        assert collection.verify() == []
        by_file = collection.search(labelled / "rocket-1.png")
        assert by_file.scores[by_file.ids == collection.find(str(labelled / "rocket-1.png"))] == 1
    with Collection.open(tmp_path / "c", recipe=load_recipe(fitted)) as again:
        for image, ranking in zip(sorted(stored.ids.tolist()), found, strict=True):
            np.testing.assert_array_equal(again.search(image).ids, ranking.ids)
            np.testing.assert_array_equal(again.search(image).scores, ranking.scores)


def test_another_function_than_the_recipe_says_is_refused(labelled, weights, tmp_path):
    recipe = load_recipe(made("ssdh", labelled, weights, tmp_path))
    fit_lsh(128, BITS, seed=0).save(recipe.hash.path)
    with (
        Collection.create(tmp_path / "c", recipe) as collection,
        pytest.raises(RecipeError, match=r"is lsh of 8 bits, and recipe ssdh says ssdh of 8"),
    ):
        collection.add([labelled], workers=1)


@pytest.mark.slow
def test_sah_is_of_one_ridge(labelled, weights, tmp_path):
    """A function that was learned with another ridge does not suit, nor an embedding that was made for another."""
    fitted = made("sah", labelled, weights, tmp_path)
    learn(fitted, labelled, tmp_path / "learning")
    table = load_recipe(fitted).model_dump(by_alias=True, exclude_none=True)
    table["global"]["embedding"]["ridge"] = 2.0
    (fitted / "recipe.toml").write_text(tomli_w.dumps(table))
    with pytest.raises(RecipeError, match="made for ridge = 1, and the recipe says 2"):
        Collection.create(tmp_path / "c", load_recipe(fitted))
    table["global"] |= {"learned": "", "reduction": ""}
    (tmp_path / "other.toml").write_text(tomli_w.dumps(table))
    again = load_recipe(fit_recipe(tmp_path / "other.toml", [labelled], weights=weights, into=tmp_path / "again"))
    shutil.copy(fitted / "hash.safetensors", again.hash.path)
    with (
        Collection.create(tmp_path / "c", again) as collection,
        pytest.raises(RecipeError, match="with other features, or another ridge, than recipe sah has"),
    ):
        collection.add([labelled], workers=1)


def test_a_function_is_not_taken_over_by_another_fit(labelled, weights, tmp_path):
    """It is of the descriptors from before."""
    fit_lsh(8, BITS, seed=0).save(tmp_path / "mine.safetensors")
    fitted = made("itq-hash", labelled, weights, tmp_path, path="mine.safetensors")
    assert load_recipe(fitted).hash.path == str(fitted / "mine.safetensors")
    assert not (fitted / "mine.safetensors").exists()
