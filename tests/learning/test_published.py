"""Each published training, by its ready settings, through `resight train`: its own recipe, of a tiny network.

Only sizes are others: a few photos, small pictures, one epoch. What is left is a recipe that indexes and searches.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

pytest.importorskip("torch")

from resight.cli.main import app
from resight.describe.fit import fit_recipe
from resight.networks.weights import file_sha256, load_state
from resight.recipes import load_recipe
from resight.search.collection import Collection

pytestmark = pytest.mark.slow

OBJECTS = ("astronaut", "chelsea", "coffee", "rocket", "brick", "moon")
RESNET, VIT = "test_resnet.r160_in1k", "test_vit.r160_in1k"
POOL = ("miner.queries=6", "miner.pool=12", "miner.negatives=2")
GEM = {"layer": "layer4", "pooling": {"kind": "gem", "p": 3.0}}


@pytest.fixture(scope="module")
def photos(tmp_path_factory, pictures, view, save):
    """Six objects of three views each."""
    folder = tmp_path_factory.mktemp("objects")
    for name in OBJECTS:
        for seed in range(3):
            save(folder / name / f"{seed}.png", np.ascontiguousarray(view(pictures[name], seed)[0][::2, ::2]))
    return folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory, pictures, save):
    """Four objects, twice each, over two backgrounds: what is the same in two photos can be told by matching."""
    import cv2

    folder = tmp_path_factory.mktemp("planted")
    for name in ("coffee", "astronaut", "chelsea", "rocket"):
        for number, ground in enumerate(("grass", "moon")):
            scene = cv2.resize(pictures[ground], (400, 320))
            scene[40 + 30 * number :, 60 + 50 * number :][:190, :190] = cv2.resize(pictures[name], (190, 190))
            save(folder / name / f"{number}.png", scene)
    return folder


@pytest.fixture
def train(photos, tmp_path):
    """Runs the command on a recipe's table with ready settings, made small; the folder it leaves, and its facts."""

    def run(table, settings, changes=(), weights=None, hold_out=0.34, labelled=None):
        file = tmp_path / "recipe.toml"
        file.write_text(tomli_w.dumps(table))
        small = ["--epochs", "1", "--side", "64", "--chunk", "6", "--accelerator", "cpu", "--workers", "1", "--quiet"]
        given = [*small, *(("--weights", str(weights)) if weights else ()), "--into", str(tmp_path / "into"), "--json"]
        held = ["--hold-out", str(hold_out)] if hold_out else []
        changed = [part for change in changes for part in ("--set", change)]
        paths = [str(file), str(labelled or photos)]
        done = CliRunner().invoke(app, ["train", *paths, "--settings", settings, *given, *held, *changed])
        assert done.exit_code == 0, done.output
        return tmp_path / "into", json.loads(done.stdout)

    return run


def small(name, *, network=RESNET, **stage):
    """A published recipe's table with a small network in [global], or [local]."""
    table = load_recipe(name).model_dump(by_alias=True, exclude_none=True, mode="json")
    table["image"]["max_side"] = 128
    for key in ("global", "local"):
        if key in table and "network" in table[key]:
            table[key] |= {"network": network, "max_side": 64, "scales": [1.0]}
    table["global" if "global" in table else "local"] |= stage
    return table


def searches(into, photos, tmp_path):
    """The recipe finds a photo that it was given, alone in its folder."""
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in into.iterdir():
        if file.name != "training":
            file.rename(moved / file.name)
    assert (moved / "README.md").is_file() and (moved / "report.html").is_file()
    with Collection.create(tmp_path / "collection", load_recipe(moved)) as collection:
        assert collection.add([photos], workers=1).failed == 0
        ranking = collection.search(sorted(photos.rglob("*.png"))[0])
        assert len(ranking.ids) > 0
        assert Path(collection.entry(int(ranking.ids[0])).origin).parent.name == sorted(photos.iterdir())[0].name
    return load_recipe(moved)


def changed(weights, after):
    before, now = load_state(weights), load_state(after)
    return [name for name in before if not (before[name] == now[name]).all()]


BALANCED = ("sampling.classes=2", "sampling.each=2")
DESCRIPTORS = {
    "siamese-gem": (GEM | {"dimensions": 4}, (*POOL, "rate=1e-4")),
    "triplet": (GEM | {"dimensions": 4}, (*POOL, "rate=1e-4")),
    "arcface": (GEM | {"dimensions": 8}, (*BALANCED, "learns.projection=8")),
    "smooth-ap": (GEM | {"dimensions": 4}, (*BALANCED, "sampling.classes=4", "rate=1e-4")),
    "ap-gem": (GEM | {"dimensions": 4}, (*BALANCED, "sampling.classes=4", "learns.projection=8")),
    "joint": (GEM | {"dimensions": 4}, (*BALANCED, "warm_up=0", "rate=1e-4")),
    "siamese-hash": (GEM | {"dimensions": 4}, (*BALANCED, "learns.hash_bits=64", "rate=1e-4")),
}


@pytest.mark.parametrize("settings", DESCRIPTORS)
def test_descriptors(settings, train, weights_of, photos, tmp_path):
    stage, changes = DESCRIPTORS[settings]
    into, facts = train(small("gem-densenet169", **stage), settings, changes, weights_of(RESNET))
    assert facts["scheme"] == "embedding" and facts["phases"]["embedding"]["best"] is not None
    assert facts["after"]["mean_average_precision"] > 0
    weights = weights_of(RESNET)
    assert changed(weights, into / "model.safetensors") and file_sha256(weights) in (into / "README.md").read_text()
    recipe = searches(into, photos, tmp_path)
    assert (recipe.filter == "hash") == (settings == "siamese-hash")
    if settings in ("siamese-gem", "ap-gem"):
        assert recipe.global_.pooling.p != 3.0  # its exponent learns


@pytest.mark.parametrize("kind", ["solar", "crn", "delf", "regional", "attention-gem", "dolg"])
def test_attention_in_the_loop(kind, train, weights_of, photos, tmp_path):
    """It starts at random, as a recipe that names no weights of it, and learns with the network."""
    weights = weights_of(RESNET)
    if kind == "dolg":
        table = small("dolg", dimensions=8)
        table["global"]["also"][0]["attention"] |= {"dimensions": 96, "inner": 8, "rates": [1, 2]}
        changes = (*BALANCED, "learns.projection=8", "warm_up=0")
    else:
        table = small("solar", dimensions=4)
        changes = (*POOL, "rate=1e-4")
        if kind != "solar":
            own = {"crn": {"filters": [[1, 4]], "context": [2, 2]}}.get(kind, {})
            table["global"]["attention"] = {"kind": kind, **own, "weights": ""}
        if kind == "regional":
            table["global"]["pooling"] = "mac"
    into, facts = train(table, kind if kind in ("dolg", "solar") else "solar", changes, weights)
    assert "has to be trained" in facts["before"]["none"] and facts["after"]["mean_average_precision"] > 0
    recipe = searches(into, photos, tmp_path)
    attention = [branch.attention for branch in recipe.global_.branches if branch.attention is not None]
    assert [stage.weights_sha256 for stage in attention] == [file_sha256(stage.weights) for stage in attention]


def test_irt(train, weights_of, photos, tmp_path):
    into, _ = train(small("irt", network=VIT, dimensions=64), "irt", BALANCED, weights_of(VIT))
    assert changed(weights_of(VIT), into / "model.safetensors")
    searches(into, photos, tmp_path)


@pytest.mark.parametrize("kind", ["netvlad", "fisher-layer", "learned-bof"])
def test_embeddings_as_layers(kind, train, weights_of, photos, tmp_path):
    """Made ready by `fit`, which gives the layer its start; then it learns with the network."""
    table = small("gem-densenet169", layer="layer4", dimensions=4)
    table["global"] |= {"pooling": "average", "embedding": {"kind": kind, "words": 4}}
    (tmp_path / "unfitted.toml").write_text(tomli_w.dumps(table))
    fit_recipe(tmp_path / "unfitted.toml", [photos], weights=weights_of(RESNET), into=tmp_path / "fitted")
    fitted = load_recipe(tmp_path / "fitted")
    table = fitted.model_dump(by_alias=True, exclude_none=True, mode="json")
    into, _ = train(table, "netvlad-triplet", (*POOL, "fit=square"))
    assert changed(fitted.global_.learned, into / "embedding.safetensors")
    searches(into, photos, tmp_path)


def test_deep_retrieval(train, weights_of, planted, tmp_path):
    table = small("deep-retrieval", dimensions=8)
    table["global"] |= {"max_side": 256, "layer": "layer3"}
    changes = (*POOL, "learns.projection=8", "side=256", "sampling.classes=2", "sampling.each=2")
    into, facts = train(table, "deep-retrieval", changes, weights_of(RESNET), hold_out=None, labelled=planted)
    assert list(facts["phases"]) == ["embedding", "proposals"]
    assert load_recipe(into).global_.scheme.kind == "map-rpn"
    searches(into, planted, tmp_path)


@pytest.mark.parametrize("reduce", ["pca", "none"])
def test_delf(reduce, train, weights_of, photos, tmp_path):
    table = small("delf", layer="layer3", dimensions=8, max_features=40, reduce=reduce)
    into, facts = train(table, "delf", ("sampling.classes=2",), weights_of(RESNET))
    phases = ["classification", "attention", "autoencoder"]
    assert list(facts["phases"]) == (phases if reduce == "none" else phases[:2])
    recipe = searches(into, photos, tmp_path)
    assert recipe.local.head and bool(recipe.local.reduction) == (reduce == "pca")


def test_delg(train, weights_of, photos, tmp_path):
    table = small("reranking-transformer", dimensions=8)
    table["rerank"] = []
    table["local"] |= {"layer": "layer3", "dimensions": 8, "max_features": 40, "reduce": "none"}
    changes = ("scheme=delf", "sampling.classes=2", "loss.kind=arcface", "learns.projection=8")
    into, facts = train(table, "delf", changes, weights_of(RESNET))
    assert list(facts["phases"]) == ["delg"]
    recipe = searches(into, photos, tmp_path)
    assert recipe.global_.weights_sha256 == recipe.local.weights_sha256 == file_sha256(recipe.global_.weights)


def test_how(train, weights_of, photos, tmp_path):
    table = small("how", layer="layer3", dimensions=8, max_features=40)
    table["asmk"]["query_assignments"] = 1  # with several, a photo need not be most similar to itself
    into, _ = train(table, "how", (*POOL, "rate=1e-4"), weights_of(RESNET))
    recipe = searches(into, photos, tmp_path)
    assert changed(weights_of(RESNET), recipe.local.weights)


@pytest.mark.parametrize("name", ["reranking-transformer", "nonmetric"])
def test_reranking(name, train, weights_of, photos, tmp_path):
    """On a recipe that describes already."""
    table = small(name, layer="layer4", dimensions=8)
    if name == "reranking-transformer":
        table["local"] |= {"layer": "layer3", "dimensions": 8, "max_features": 16}
        table["rerank"][0] |= {"features": 8, "heads": 2}
    (tmp_path / "unfitted.toml").write_text(tomli_w.dumps(table))
    weights = weights_of(RESNET)
    local = weights if name == "reranking-transformer" else None
    fit_recipe(tmp_path / "unfitted.toml", [photos], weights=weights, into=tmp_path / "fitted", local_weights=local)
    fitted = load_recipe(tmp_path / "fitted").model_dump(by_alias=True, exclude_none=True, mode="json")
    changes = ("loss.hidden=[16]",) if name == "nonmetric" else ()
    into, facts = train(fitted, name, changes)
    assert facts["scheme"] == "reranking"
    recipe = searches(into, photos, tmp_path)
    assert recipe.rerank[0].model and recipe.global_.weights_sha256 == file_sha256(weights)
