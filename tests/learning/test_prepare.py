"""`--weights` goes to every part of a recipe whose network it is of, so that nothing is downloaded."""

import shutil

import pytest

pytest.importorskip("torch")

from resight.errors import RecipeError
from resight.learning.checkpoint import check_identity
from resight.learning.prepare import prepare, with_weights
from resight.learning.settings import load_settings
from resight.recipes import load_recipe

NAMES = ("weights", "revision", "weights_sha256")


@pytest.fixture
def files(tmp_path):
    """Two weights files, and the first again by another name."""
    found = [tmp_path / name for name in ("one.safetensors", "other.safetensors", "again.safetensors")]
    for file, content in zip(found, (b"one", b"other", b"one"), strict=True):
        file.write_bytes(content)
    return found


def named(stage):
    return tuple(getattr(stage, name) for name in NAMES)


@pytest.mark.parametrize("name", ["reranking-transformer", "delg", "gem-dsm"])
def test_one_network_of_a_vector_and_local_features_gets_it_in_both(name, files):
    recipe = with_weights(load_recipe(name), files[0])
    assert recipe.global_.network == recipe.local.network
    assert named(recipe.global_) == named(recipe.local) == (str(files[0]), "", "")


def test_our_own_network_gets_it_in_both(files):
    recipe = with_weights(load_recipe("compact"), files[0])
    assert recipe.global_.weights == recipe.local.weights == str(files[0])


def test_each_branch_gets_it(files):
    recipe = with_weights(load_recipe("dolg"), files[0])
    assert [branch.weights for branch in recipe.global_.branches] == [str(files[0])] * 2


@pytest.mark.parametrize("name", ["delf", "how", "aliked-asmk"])
def test_local_features_alone_get_it(name, files):
    assert with_weights(load_recipe(name), files[0]).local.weights == str(files[0])


def test_local_features_without_a_network_are_left_as_they_are(files):
    recipe = load_recipe("rmac-densenet169-verified")
    changed = with_weights(recipe, files[0])
    assert changed.local == recipe.local and changed.global_.weights == str(files[0])


def test_weights_that_differ_are_said(files):
    recipe = load_recipe("reranking-transformer")
    one, other, again = files

    def with_local(**changes):
        return recipe.model_copy(update={"local": recipe.local.model_copy(update=changes)})

    with pytest.raises(
        RecipeError, match=r"\[local\] has weights of its own, .*other\.safetensors, which are not those of"
    ):
        with_weights(with_local(weights=str(other)), one)
    assert with_weights(with_local(weights=str(again)), one).local.weights == str(one)
    with pytest.raises(RecipeError, match=r"\[local\] has resnet18, for which weights of another network do not do"):
        with_weights(with_local(network="resnet18"), one)
    own = with_local(network="resnet18", weights=str(other))
    assert with_weights(own, one).local == own.local and with_weights(own, one).global_.weights == str(one)


def test_without_a_network_or_a_file_it_is_refused(files, tmp_path):
    with pytest.raises(RecipeError, match="recipe rootsift-asmk has no network: leave --weights out"):
        with_weights(load_recipe("rootsift-asmk"), files[0])
    with pytest.raises(RecipeError, match="there is no weights file"):
        with_weights(load_recipe("how"), tmp_path / "nowhere.safetensors")
    assert with_weights(load_recipe("how"), None) == load_recipe("how")


def test_a_training_goes_on_only_with_the_photos_it_began_with(tmp_path, recipe, noise):
    photos = tmp_path / "things"
    for number, file in enumerate(sorted(noise.iterdir())):
        (photos / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, photos / f"{number % 3}")

    def identity():
        return prepare(load_recipe(recipe), photos, load_settings(None), tmp_path / "training").identity

    begun = identity()
    check_identity(tmp_path / "last", begun, identity())
    shutil.copy(photos / "1" / "1.png", photos / "0" / "0.png")  # as many photos, of which one is another
    with pytest.raises(RecipeError, match=r"last: the run was begun with set revision = .* set it back to go on"):
        check_identity(tmp_path / "last", begun, identity())
