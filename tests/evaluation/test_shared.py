"""Recipes that describe alike: shared parts give what each would have by itself."""

import shutil
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

from small_recipes import labelled_copy, small_stage  # noqa: E402

from resight.errors import CollectionError  # noqa: E402
from resight.evaluation import load_labelled  # noqa: E402
from resight.evaluation.check_recipes import measure  # noqa: E402
from resight.evaluation.leaderboard_run import run_leaderboard  # noqa: E402
from resight.evaluation.made_ready import Kit, fit_all, what_is_fitted  # noqa: E402
from resight.recipes import load_recipe  # noqa: E402
from resight.search.alike import copy_descriptions, descriptions  # noqa: E402
from resight.search.collection import Collection  # noqa: E402
from resight.search.vectors import read_vectors  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")


def nothing(phase, done, total):
    pass


@pytest.fixture(scope="module")
def views(tmp_path_factory, photos):
    return labelled_copy(photos, tmp_path_factory.mktemp("labelled") / "views")


@pytest.fixture(scope="module")
def kit(views):
    return Kit((str(views),))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Siblings of recipes, unfitted, which differ in what comes after the global descriptor."""
    folder = tmp_path_factory.mktemp("small")
    stage = small_stage("gem-densenet169", folder).model_copy(update={"max_side": 96})
    names = ("gem-densenet169", "superglobal", "gss", "itq-hash")
    recipes = {name: load_recipe(name).model_copy(update={"global_": stage}) for name in names}
    codes = recipes["itq-hash"].hash.model_copy(update={"bits": 8})
    return recipes | {"itq-hash": recipes["itq-hash"].model_copy(update={"hash": codes})}


@pytest.fixture(scope="module")
def fitted(small, kit, tmp_path_factory):
    """The folder of the plain one, fitted."""
    into = tmp_path_factory.mktemp("fitted") / "gem-densenet169"
    fit_all(small["gem-densenet169"], kit, into, report=nothing)
    return into


@pytest.mark.parametrize("name", ["superglobal", "gss"])
def test_what_was_fitted_for_one_is_what_another_would_fit(name, small, fitted, kit, tmp_path):
    fit_all(small[name], kit, tmp_path / "itself", workers=1, report=nothing)
    fit_all(small[name], kit, tmp_path / "over", like=fitted, workers=1, report=nothing)
    files = [sorted(p.name for p in (tmp_path / how).iterdir()) for how in ("itself", "over")]
    assert files[0] == files[1] and "whitening.safetensors" in files[0]
    for file in files[0]:
        itself, over = ((tmp_path / how / file).read_bytes() for how in ("itself", "over"))
        if file == "recipe.toml":
            itself, over = (tomllib.loads(text.decode()) for text in (itself, over))
        assert itself == over, file


def test_only_those_that_fit_the_same_and_nothing_else_do_so():
    names = ("gem-densenet169", "superglobal", "itq-hash", "gem-dsm", "rootsift-asmk", "dmk-cnn", "mac", "sah")
    what = {name: what_is_fitted(name) for name in names}
    assert what["gem-densenet169"] == what["superglobal"] == what["itq-hash"] != what["mac"]
    assert what["mac"] and [name for name in names if not what[name]] == ["gem-dsm", "rootsift-asmk", "dmk-cnn", "sah"]


def with_stages(fitted, recipe, into):
    """The fitted folder's copy, with another's stages after the global descriptor."""
    shutil.copytree(fitted, into)
    table = recipe.model_dump(by_alias=True, exclude_none=True)
    table["global"] = tomllib.loads((fitted / "recipe.toml").read_text())["global"]
    (into / "recipe.toml").write_text(tomli_w.dumps(table))
    return into


def test_the_board_is_what_each_recipe_has_by_itself(small, fitted, views, kit, tmp_path):
    """Figures, bytes and all but the time; and the pictures went through the network once."""
    folders = [with_stages(fitted, small[name], tmp_path / name) for name in ("superglobal", "gem-densenet169")]
    folders.append(with_stages(fitted, small["itq-hash"], tmp_path / "itq-hash"))
    labelled = load_labelled(views)
    alone = [measure(each.name, load_recipe(each), labelled, workers=1) for each in folders]
    phases = []
    board = run_leaderboard(
        [labelled], list(map(str, folders)), kit, tmp_path / "out", workers=1, report=lambda *told: phases.append(told)
    )
    found = {cell.checked.recipe: replace(cell.checked, milliseconds=None) for cell in board.cells}
    for each in alone:
        size = pytest.approx(each.bytes_per_image)
        assert found[each.recipe] == replace(each, milliseconds=None, bytes_per_image=size)
    described = [phase for phase, done, total in phases if phase.endswith("describing") and done]
    assert len(described) == 12 and set(described) == {"superglobal: describing"}
    assert {each.recipe: each.mean_average_precision for each in alone} != dict.fromkeys(found, 1.0)


def test_descriptions_are_copied_with_failures_and_only_to_a_recipe_that_makes_them_so(small, fitted, views, tmp_path):
    plain = load_recipe(fitted)
    (tmp_path / "photos").mkdir()
    for name in sorted(p.name for p in views.iterdir() if p.suffix in (".png", ".jpg"))[:3]:
        shutil.copy(views / name, tmp_path / "photos")
    (tmp_path / "photos/no.jpg").write_text("no picture")
    with Collection.create(tmp_path / "one", plain) as one:
        one.add([tmp_path / "photos"], workers=1)
        first = next(iter(one.entries())).id
        one.remove([first])
    other = plain.model_copy(update={"rerank": small["superglobal"].rerank})
    copy_descriptions(tmp_path / "one", tmp_path / "two", other)
    with Collection.open(tmp_path / "one") as one, Collection.open(tmp_path / "two") as two:
        assert list(one.entries()) == list(two.entries()) and len(two) == 2
        assert list(one.failures()) == list(two.failures()) != []
    assert np.array_equal(read_vectors(tmp_path / "one").x, read_vectors(tmp_path / "two").x)
    with Collection.open(tmp_path / "two", write=True) as two:
        report = two.add([tmp_path / "photos"], workers=1)
        assert (report.added, report.unchanged) == (1, 2)
    stage = plain.global_.model_copy(update={"max_side": 64, "whiten": "none", "whitening": ""})
    assert descriptions(plain.model_copy(update={"global_": stage})) != descriptions(plain) == descriptions(other)
    assert descriptions(load_recipe("rootsift-asmk")) is None
    with pytest.raises(CollectionError, match="gem-densenet169 described it, and gem-densenet169 describes otherwise"):
        copy_descriptions(tmp_path / "one", tmp_path / "no", plain.model_copy(update={"global_": stage}))
    assert not (tmp_path / "no").exists()
