"""Recipes from TOML: what is refused and how it is named, what the fingerprint sees, and what it does not."""

import pytest

from resight.errors import RecipeError
from resight.recipes import load_recipe, parse_recipe, recipe_names, recipe_text
from resight.recipes.rerank_stages import SuperGlobalStage

DEFAULT = recipe_text("rootsift-asmk")


def variant(old: str, new: str) -> str:
    assert DEFAULT.count(old) >= 1
    return DEFAULT.replace(old, new, 1)


def test_every_recipe_loads_and_is_called_as_its_file():
    assert "rootsift-asmk" in recipe_names()
    fingerprints = {name: load_recipe(name).fingerprint for name in recipe_names()}
    assert all(load_recipe(name).name == name for name in recipe_names())
    assert len(set(fingerprints.values())) == len(fingerprints)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (variant("max_side = 1024", "max_side = 1"), "image.max_side"),
        (variant("alpha = 3.0", "alfa = 3.0"), "asmk.alfa"),
        (variant("[verify]", "[verifi]"), "verifi"),
        (variant('detector = "sift"', 'detector = "surf"'), "local: Input tag .surf. found using .detector."),
        (variant("seed = 0", 'seed = "x"'), "codebook.seed"),
        (variant('filter = "asmk"', 'filter = "global"'), r'filter = "global" needs the table \[global\]'),
        (variant('name = "rootsift-asmk"', ""), "name: Field required"),
        (variant("[asmk]", "[asmk"), "not valid TOML"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=rf"mine\.toml: .*{said}"):
        load_recipe(file)


@pytest.mark.parametrize("stage", ["local", "codebook", "asmk", "calibration"])
def test_stages_that_need_each_other_are_asked_for(stage):
    before, after = DEFAULT.split(f"[{stage}]")
    rest = after[after.index("\n[") :] if "\n[" in after else ""
    with pytest.raises(RecipeError, match=r"mine: .*\[" + ("asmk" if stage != "calibration" else "verify")):
        parse_recipe(before + rest, "mine", None)


@pytest.mark.parametrize("name", ["no-such", "no/such", "nosuch.toml"])
def test_an_unknown_recipe_is_named(name):
    with pytest.raises(RecipeError, match=name):
        load_recipe(name)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "recipe.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(RecipeError, match=r"recipe\.toml: cannot be read"):
        load_recipe(tmp_path)


def every_leaf(table: dict, path: tuple = ()) -> list[tuple]:
    leaves = []
    for key, value in table.items():
        leaves += every_leaf(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]
    return leaves


CHANGED = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v * 0.5 + 0.001, str: lambda v: v + "x"}
CHANGED[tuple] = lambda v: (*v, SuperGlobalStage(method="superglobal"))
OTHER = {("filter",): "global", ("local", "detector"): None}  # choices without another valid value here
RECIPE = load_recipe("rootsift-asmk")


@pytest.mark.parametrize(
    "leaf", [leaf for leaf in every_leaf(RECIPE.model_dump(exclude_none=True)) if leaf not in OTHER]
)
def test_every_parameter_changes_the_fingerprint_and_no_path_does(leaf):
    stage = RECIPE if len(leaf) == 1 else getattr(RECIPE, leaf[0])
    value = getattr(stage, leaf[-1])
    changed = stage.model_copy(update={leaf[-1]: CHANGED[type(value)](value)})
    recipe = changed if len(leaf) == 1 else RECIPE.model_copy(update={leaf[0]: changed})
    moves = leaf == ("codebook", "path")
    assert (recipe.fingerprint == RECIPE.fingerprint) == moves


def test_weights_may_move_but_not_change():
    recipe = load_recipe("gem-densenet169")
    moved, changed = (
        recipe.model_copy(update={"global_": recipe.global_.model_copy(update=update)})
        for update in ({"weights": "/elsewhere/w", "whitening": "x"}, {"weights_sha256": "00"})
    )
    assert moved.fingerprint == recipe.fingerprint != changed.fingerprint
    pinned = recipe.model_copy(update={"global_": recipe.global_.model_copy(update={"revision": "v1"})})
    assert pinned.fingerprint == recipe.fingerprint, "what was downloaded tells, not from where"


def test_weights_come_from_one_place():
    text = recipe_text("multilayer-cnn").replace('network = "resnet50"', 'network = "resnet50"\nrevision = "v1"')
    first, second = parse_recipe(text, "mine", None).global_.branches
    assert first.revision == second.revision == "v1"
    own = text + 'weights = "w.npz"\n'
    assert [(b.weights, b.revision) for b in parse_recipe(own, "mine", None).global_.branches] == [
        ("", "v1"),
        ("w.npz", ""),
    ]
    for both in (text.replace("revision", 'weights = "w.npz"\nrevision'), own + 'revision = "v2"\n'):
        with pytest.raises(RecipeError, match=r"mine: global: .*weights are a file, a revision is of downloaded"):
            parse_recipe(both, "mine", None)


def test_the_fingerprint_is_of_values_not_of_spelling():
    respelled = "\n".join(line.split("#")[0] for line in DEFAULT.splitlines()).replace("= 3.0", "= 3.00")
    assert parse_recipe(respelled, "mine", None).fingerprint == RECIPE.fingerprint


def test_paths_in_a_file_are_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/recipe.toml").write_text(variant('path = ""', 'path = "words.safetensors"'))
    monkeypatch.chdir(tmp_path)
    assert load_recipe("r").codebook.path == str(tmp_path / "r/words.safetensors")
    assert parse_recipe(DEFAULT, "mine", tmp_path).codebook.path == ""


def test_downloaded_weights_of_local_features_are_pinned():
    recipe = load_recipe("how")
    pinned = recipe.model_copy(update={"local": recipe.local.model_copy(update={"revision": "v1"})})
    assert pinned.fingerprint == recipe.fingerprint
    text = recipe_text("how").replace('detector = "how"', 'detector = "how"\nrevision = "v1"')
    assert parse_recipe(text, "mine", None).local.revision == "v1"
    with pytest.raises(RecipeError, match=r"mine: local.*weights are a file, a revision is of downloaded"):
        parse_recipe(text.replace('weights = ""', 'weights = "w.pth"'), "mine", None)
