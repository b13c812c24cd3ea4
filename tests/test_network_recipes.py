"""Every recipe with a network, from fit to search, on a small sibling of its network with random weights."""

import importlib.util
import json
import re

import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.cli.evaluate import learn_fusion, learn_whitening  # noqa: E402
from resight.describe.describer import Describer  # noqa: E402
from resight.describe.fit import fit_recipe  # noqa: E402
from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.evaluation import evaluate  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.networks.engine import TOLERANCE  # noqa: E402
from resight.pooling.crn import ContextualReweighting  # noqa: E402
from resight.pooling.multi_atrous import MultiAtrousAttention  # noqa: E402
from resight.pooling.second_order import SecondOrderAttention  # noqa: E402
from resight.recipes import load_recipe, recipe_names  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

# What replaces the recipe's own network and sizes; a random network still knows a picture from others.
TINY = {"network": "resnet10t", "layer": "layer3", "max_side": 128, "dimensions": 8}
PATCHES = {"kind": "dense", "on": "pixels", "stride": 48, "side": 64}
_ALIKE = 0.9  # cosine; whitening of a few random features enlarges what bfloat16 rounds
VLAD = {"kind": "vlad", "words": 4, "reduce": 8}
SIBLINGS = {
    "blcf": TINY | {"embedding": {"kind": "bow", "words": 8, "idf": False, "reduce": 6}},
    "blcf-saliency": TINY | {"embedding": {"kind": "bow", "words": 8, "idf": False, "reduce": 6}},
    "cam-crow": TINY | {"layer": "layer4", "pooling": {"kind": "cam-crow", "top": 3}},
    "crn": TINY
    | {
        "attention": {"kind": "crn", "filters": [[3, 4], [5, 2]], "context": [5, 5]},
        "embedding": {"kind": "netvlad", "words": 4},
    },
    "crow": TINY,
    "deepindex": TINY
    | {
        "dimensions": 64,
        "scheme": {"kind": "pyramid", "on": "pixels", "cells": [1, 2], "side": 64},
        "embedding": {"kind": "bow", "words": 8, "assignments": 2, "idf": False},
        "also": [{"layer": "layer4"}],
    },
    "deep-retrieval": TINY,
    "dinov2": {"max_side": 98},
    "dolg": TINY
    | {
        "scales": [1.0],
        "also": [
            {
                "layer": "layer2",
                "pooling": "average",
                "attention": {"kind": "multi-atrous", "dimensions": 256, "inner": 8, "rates": [1, 2]},
            }
        ],
    },
    "faemb": TINY | {"embedding": {"kind": "faemb", "mask": "max", "reduce": 6, "anchors": 4}},
    "fv-cnn": TINY | {"embedding": {"kind": "fisher", "components": 4, "reduce": 8}},
    "gem-densenet169": {"network": "resnet10t", "max_side": 128, "dimensions": 8},
    "heat-diffusion": TINY,
    "irt": {"network": "test_vit", "max_side": 96, "dimensions": 64},
    "mac": TINY,
    "mof": TINY
    | {
        "dimensions": 24,
        "embedding": {"kind": "bow", "words": 8},
        "also": [{"layer": "layer2"}, {"layer": "layer4", "weight": 0.5}],
    },
    "mop-cnn": TINY
    | {"also": [{"scheme": PATCHES | {"sides": [64]}, "embedding": VLAD}, {"scheme": PATCHES | {"sides": [48]}}]},
    "multilayer-cnn": {"network": "resnet10t", "max_side": 128, "dimensions": 8},
    "multiscale-cnn": TINY | {"also": [{"layer": "layer2"}, {"layer": "conv1"}]},
    "neural-codes": TINY | {"layer": "layer4"},
    "oldfp": TINY | {"scheme": {"kind": "selective-search", "on": "pixels", "top": 4, "side": 64, "aggregate": "max"}},
    "r-mac": TINY,
    "rmac-densenet169-verified": TINY | {"layer": "layer4", "dimensions": 640, "also": [{"layer": "layer2"}]},
    "sba": TINY | {"pooling": {"kind": "sba", "parts": 4}},
    "selective-conv": TINY | {"embedding": {"kind": "t-embedding", "mask": "sum", "reduce": 8, "words": 4}},
    "solar": TINY | {"attention": {"kind": "second-order", "reduction": 4}},
    "spoc": TINY,
    "vlad-cnn": TINY | {"embedding": VLAD},
}


def test_no_recipe_is_left_out():
    """Recipes that re-rank describe as gem-densenet169 does: search/rerank/test_recipes.py. Those that hash:
    test_hash_recipes.py.
    """
    recipes = {name: load_recipe(name) for name in recipe_names()}
    others = {name for name, recipe in recipes.items() if recipe.global_ and not (recipe.rerank or recipe.hash)}
    assert set(SIBLINGS) == others


@pytest.fixture(scope="module", params=SIBLINGS)
def fitted(request, tmp_path_factory, photos):
    """The folder of a recipe, ready to index."""
    tmp_path = tmp_path_factory.mktemp(request.param)
    recipe = load_recipe(request.param)
    stage = GlobalStage.model_validate(recipe.global_.model_dump() | SIBLINGS[request.param])
    torch.manual_seed(0)
    if getattr(stage.attention, "weights", None) is not None:
        with pytest.raises(RecipeError, match=f"attention {stage.attention.kind} has to be trained"):
            fit_recipe(request.param, [photos], weights=None, into=tmp_path / "untrained")
        stage = with_attention(stage, tmp_path / "trained.safetensors")
    if request.param == "dolg":
        stage = with_local_branch(stage, tmp_path / "trained.safetensors")
    network = create_network(stage.network)
    state = dict(network.state_dict())
    if request.param == "cam-crow":
        state |= {"fc.weight": torch.randn(10, network.num_features), "fc.bias": torch.zeros(10)}
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):  # DINOv2's blocks begin as next to nothing
            parameter.fill_(1)
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, weights)
    table = recipe.model_copy(update={"global_": stage}).model_dump(by_alias=True, exclude_none=True)
    (tmp_path / "small.toml").write_text(tomli_w.dumps(table))
    return fit_recipe(tmp_path / "small.toml", [photos], weights=weights, into=tmp_path / "fitted")


def with_attention(stage, path):
    """The stage with made-up weights of its attention, which would have to be trained."""
    if stage.attention.kind == "crn":
        module = ContextualReweighting(256, stage.attention.filters, stage.attention.context)
    else:
        module = SecondOrderAttention(256, stage.attention.reduction)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, 0, 0.05)
    safetensors.torch.save_file(module.state_dict(), path)
    return stage.model_copy(update={"attention": stage.attention.model_copy(update={"weights": str(path)})})


def with_local_branch(stage, path):
    """The stage with made-up weights of DOLG's local branch, over 128 channels."""
    safetensors.torch.save_file(MultiAtrousAttention(128, 256, 8, (1, 2)).state_dict(), path)
    (local,) = stage.also
    return stage.model_copy(update={"also": ({**local, "attention": {**local["attention"], "weights": str(path)}},)})


def test_a_photo_finds_itself_by_file_and_by_id(fitted, photos, tmp_path):
    recipe = load_recipe(fitted)
    with Collection.create(tmp_path / "c", recipe) as collection:
        report = collection.add([photos], workers=1)
        assert report.failed == 0 and report.added == len(collection) > 10
        asked = photos / "rocket-1.png"
        by_file = collection.search(asked)
        image = collection.find(str(asked))
        by_id = collection.search(image)
        assert by_file.ids[0] == by_id.ids[0] == image
        np.testing.assert_allclose(by_file.scores, by_id.scores, atol=2e-3)
        assert collection.verify() == []
        fingerprint = collection.fingerprint
    with Collection.open(tmp_path / "c", recipe=load_recipe(fitted)) as again:
        assert again.fingerprint == fingerprint
        np.testing.assert_array_equal(again.search(asked).ids, by_file.ids)


def several(photos):
    """Pictures of four shapes, of which two share one."""
    pixels = [read_image(photos / name).pixels for name in ("rocket-1.png", "coffee-1.png", "moon.png")]
    return [pixels[0], pixels[1], pixels[2], pixels[2][:, 40:], np.ascontiguousarray(pixels[0][::-1])]


def test_a_batch_of_one_and_a_batch_of_many_give_the_same_descriptor(fitted, photos):
    network = Describer(load_recipe(fitted)).network
    prepared = [network.prepare(pixels) for pixels in several(photos)]
    together = network.describe_views(prepared)
    # Whitening of few photos enlarges rounding.
    np.testing.assert_allclose([network.describe(pixels) for pixels in several(photos)], together, atol=2e-3)
    np.testing.assert_allclose(list(network.describe_each(prepared)), together, atol=2e-3)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_gives_what_pytorch_does(fitted, photos):
    stage = load_recipe(fitted).global_
    plain, fast = (GlobalDescriber(stage, None, engine=engine) for engine in ("torch", "openvino"))
    prepared = [plain.prepare(pixels) for pixels in several(photos)[:2]]
    for image in prepared:
        for expected, found in zip(plain.outputs(image), fast.outputs(image), strict=True):
            for (_, a), (_, b) in zip(expected, found, strict=True):
                assert (a - b).abs().max() <= TOLERANCE * a.abs().max()
    np.testing.assert_allclose(fast.describe_views(prepared), plain.describe_views(prepared), atol=5e-3)


@pytest.mark.gpu
def test_a_cuda_device_gives_what_the_cpu_does(fitted, photos, monkeypatch):
    stage = load_recipe(fitted).global_
    there = GlobalDescriber(stage, None, engine="torch")
    assert there.engine.endswith("bfloat16")
    with monkeypatch.context() as without:
        without.setattr("torch.cuda.is_available", lambda: False)
        here = GlobalDescriber(stage, None, engine="torch")
    prepared = [here.prepare(pixels) for pixels in several(photos)]
    expected = here.describe_views(prepared)
    for found in (there.describe_views(prepared), list(there.describe_each(prepared))):
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        assert (np.einsum("nd,nd->n", found, expected) / lengths).min() > _ALIKE


@pytest.mark.parametrize("fitted", ["gem-densenet169"], indirect=True)
def test_a_whitening_is_learned_from_the_matches_of_a_labelled_set(fitted, photos, tmp_path, capsys):
    label(photos)
    learn_whitening(str(fitted), photos, tmp_path / "tuned", ridge=0.1, quiet=True)
    said = capsys.readouterr().out
    after = float(re.search(r"(\d+\.\d) after", said)[1])
    assert "8 matching pairs of views" in said
    report = evaluate(photos, tmp_path / "tuned", workers=1)
    assert round(100 * report.figures.mean_average_precision, 1) == after
    assert "matching pairs of views" in str(report.protocol.fitted_on)
    with pytest.raises(RecipeError, match="not an empty folder"):
        learn_whitening(str(fitted), photos, tmp_path / "tuned", ridge=0.1, quiet=True)


def label(photos):
    """A gt.json by which photos whose names begin alike match."""
    names = sorted(path.name for path in photos.iterdir() if path.suffix in (".png", ".jpg"))
    queries = {name: {"positives": [n for n in names if n[:4] == name[:4] and n != name]} for name in names}
    truth = {"name": "views", "database": names, "queries": queries}
    (photos / "gt.json").write_text(json.dumps(truth))


@pytest.mark.parametrize("fitted", ["multilayer-cnn"], indirect=True)
def test_a_fusion_is_tuned_on_a_labelled_set(fitted, photos, tmp_path, capsys):
    label(photos)
    learn_fusion(str(fitted), photos, tmp_path / "tuned", workers=1, quiet=True)
    said = capsys.readouterr().out
    before, after = (float(x) for x in re.findall(r"(\d+\.\d) (?:before|after)", said))
    report = evaluate(photos, tmp_path / "tuned", workers=1)
    assert after >= before and round(100 * report.figures.mean_average_precision, 1) == after
    assert report.protocol.fitted_share == {"whitening": 1.0, "whitening 2": 1.0}  # fitted on these very photos
    assert "fitted on 100 % of these photos" in report.warnings[0]
