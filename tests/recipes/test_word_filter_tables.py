"""The tables of filters over visual words: what they need, exclude and bound."""

import pytest

from resight.errors import RecipeError
from resight.recipes import load_recipe, parse_recipe, recipe_text

HAMMING, BOW = recipe_text("rootsift-hamming"), recipe_text("rootsift-bow")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HAMMING.replace("[hamming]", "[asmk]").split("bits")[0], r'filter = "hamming" needs the table \[hamming\]'),
        (BOW.split("[bow]")[0], r'filter = "bow" needs the table \[bow\]'),
        (BOW + "[hamming]\n", r"one inverted file: choose one of the tables \[bow\], \[hamming\]"),
        (BOW + "[asmk]\n", r"one inverted file: choose one of the tables \[asmk\], \[bow\]"),
        (BOW.replace("[codebook]", "[image2]"), r"image2: Extra inputs"),
        (HAMMING.replace("bits = 64", "bits = 60"), r"hamming\.bits: .*multiple of 8"),
        (HAMMING.replace("threshold = 22", "threshold = 65"), r"hamming: threshold = 65 is more than the 64 bits"),
        (HAMMING.replace("sigma = 16.0", "sigma = -1.0"), r"hamming\.sigma"),
        (BOW.replace("query_assignments = 1", "query_assignments = 0"), r"bow\.query_assignments"),
    ],
)
def test_a_mistake_is_named(text, said):
    with pytest.raises(RecipeError, match=rf"mine: .*{said}"):
        parse_recipe(text, "mine", None)


def test_what_they_keep_of_an_image():
    postings = {name: load_recipe(name).postings for name in ("rootsift-asmk", "rootsift-bow", "rootsift-hamming")}
    assert len(set(postings.values())) == 3
    shorter = parse_recipe(HAMMING.replace("bits = 64", "bits = 32"), "mine", None)
    looser = parse_recipe(HAMMING.replace("threshold = 22", "threshold = 30"), "mine", None)
    assert shorter.postings != postings["rootsift-hamming"] == looser.postings
    assert load_recipe("rmac-densenet169-verified").postings == postings["rootsift-asmk"]


def test_where_the_medians_lie_may_change_and_nothing_else(tmp_path):
    recipe = load_recipe("rootsift-hamming")
    changed = {"query_assignments": 1, "bits": 32, "threshold": 3, "sigma": 1.0, "idf": False}
    for key, value in {**changed, "path": "/elsewhere"}.items():
        other = recipe.model_copy(update={"hamming": recipe.hamming.model_copy(update={key: value})})
        assert (other.fingerprint == recipe.fingerprint) == (key == "path")
    placed = HAMMING.replace('path = ""', 'path = "learned.safetensors"')
    assert parse_recipe(placed, "mine", tmp_path).hamming.path == str(tmp_path / "learned.safetensors")
