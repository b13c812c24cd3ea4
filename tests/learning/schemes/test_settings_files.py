"""The settings that come with resight load, say where they come from, and suit the recipes and schemes they name."""

import re
import tomllib

import pytest

pytest.importorskip("torch")

from resight.learning.schemes import SCHEMES, scheme_of
from resight.learning.schemes.embedding import whitening
from resight.learning.settings import Training, load_settings, settings_names, settings_text
from resight.learning.unlabelled.gss import place_of
from resight.learning.unlabelled.settings import load_unlabelled_settings
from resight.recipes import load_recipe, recipe_names

PUBLISHED = {
    "siamese-gem": ("siamese", "gem-densenet169", "embedding"),
    "triplet": ("triplet", "gem-densenet169", "embedding"),
    "arcface": ("arcface", "gem-densenet169", "embedding"),
    "smooth-ap": ("smooth-ap", "gem-densenet169", "embedding"),
    "ap-gem": ("listwise-ap", "gem-densenet169", "embedding"),
    "joint": ("joint", "gem-densenet169", "embedding"),
    "deep-retrieval": ("triplet", "deep-retrieval", "deep-retrieval"),
    "delf": ("cross-entropy", "delf", "delf"),
    "how": ("siamese", "how", "how"),
    "dolg": ("arcface", "dolg", "embedding"),
    "solar": ("solar", "solar", "embedding"),
    "irt": ("entropy-siamese", "irt", "embedding"),
    "nonmetric": ("nonmetric", "nonmetric", "reranking"),
    "reranking-transformer": ("siamese", "reranking-transformer", "reranking"),
    "netvlad-triplet": ("triplet", "gem-densenet169", "embedding"),
    "siamese-hash": ("double-margin", "gem-densenet169", "embedding"),
    "doap": ("listwise-ap", "doap", "patches"),
}
# Of photos without labels: kind, recipe.
UNLABELLED = {
    "autoencoder": ("autoencoder", "gem-densenet169"),
    "gan-retrieval": ("gan", "gan-retrieval"),
    "gss": ("gss", "gss"),
    "sift-cnn": ("sift", "sift-cnn"),
}


def test_there_is_one_for_each_published_training():
    assert set(settings_names()) == {*PUBLISHED, *UNLABELLED}


@pytest.mark.parametrize("name", UNLABELLED)
def test_those_without_labels_load_and_suit_the_recipe(name):
    kind, recipe = UNLABELLED[name]
    settings = load_unlabelled_settings(name)
    assert settings.unlabelled.kind == kind
    if kind == "gss":
        assert place_of(load_recipe(recipe)) == 0
    else:
        assert whitening(load_recipe(recipe).global_, settings) == "pca"


@pytest.mark.parametrize("name", PUBLISHED)
def test_they_load_and_their_scheme_takes_the_recipe(name):
    loss, recipe, scheme = PUBLISHED[name]
    settings = load_settings(name)
    assert isinstance(settings, Training) and settings.loss.kind == loss
    base = load_recipe(recipe)
    assert scheme_of(base, settings) == scheme
    assert SCHEMES[scheme](base, settings)  # one phase at least, and nothing that the scheme refuses


@pytest.mark.parametrize("name", [*PUBLISHED, *UNLABELLED])
def test_they_say_what_they_are_and_what_differs(name):
    text = settings_text(name)
    head = text.split("\n\n")[0]
    assert re.search(r"\b(19|20)\d\d\b|survey", head) and "resight train" in head
    assert re.search(r"Different from the publication|are ours|are those of", head)
    (command,) = re.findall(r"resight train (\S+) (?:SET|--unlabelled PHOTOS) --settings (\S+)", head)
    assert command[1] == name and command[0] in {*recipe_names(), "RECIPE", "FITTED"}
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_key_only_repeats_a_default_of_another_scheme(name):
    """Every table that is given is one that the loss or scheme reads: nothing is set to no effect."""
    table = tomllib.loads(settings_text(name))
    if PUBLISHED[name][2] == "reranking":
        assert not {"side", "fit", "augment", "learns", "miner", "whitening"} & table.keys()
    if table.get("miner", {}).get("kind") == "pool":
        assert "sampling" not in table
