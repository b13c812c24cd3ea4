"""Local features of networks in a recipe, from fit to search, on small networks with random weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.describe.describer import Describer  # noqa: E402
from resight.describe.fit import fit_recipe  # noqa: E402
from resight.describe.fit_local import place_local  # noqa: E402
from resight.describe.local_features import load_local, load_network_features  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.images.read import read_image  # noqa: E402
from resight.local.aliked import Aliked, AlikedNetwork  # noqa: E402
from resight.local.features import LocalFeatures, quantised  # noqa: E402
from resight.local.patch_network import AffNet, HardTFeatNet, OriNet  # noqa: E402
from resight.networks.architectures import create_network  # noqa: E402
from resight.networks.engine import TOLERANCE  # noqa: E402
from resight.recipes import Recipe, load_recipe  # noqa: E402
from resight.search.collection import Collection  # noqa: E402

NETWORK = {"network": "resnet10t", "layer": "layer2", "max_side": 256, "dimensions": 16, "max_features": 200}
TABLES = {
    "delf": load_recipe("delf").local.model_dump() | {"scales": [1.0, 0.7071], **NETWORK},
    "how": load_recipe("how").local.model_dump() | {"scales": [1.0], **NETWORK},
    "maxima": {"detector": "maxima", "scales": [0.5, 1.0], **NETWORK},
}


def recipe_with(local: dict, **stages) -> dict:
    """The table of a recipe with these local features, searched by ASMK without verification."""
    base = load_recipe("rootsift-asmk").model_dump(by_alias=True, exclude_none=True)
    del base["verify"], base["calibration"]
    return base | {"name": "mine", "local": local} | stages


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A file of random weights of a small network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "resnet10t.safetensors"
    safetensors.torch.save_file(dict(create_network("resnet10t").state_dict()), path)
    return path


@pytest.fixture(scope="module")
def aliked(tmp_path_factory):
    """A file of random weights of the smallest ALIKED."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("aliked") / "t16.safetensors"
    made = AlikedNetwork((8, 16, 32, 64), 16)
    torch.nn.init.normal_(made.desc_head.agg_weights)
    safetensors.torch.save_file(dict(made.state_dict()), path)
    return path


@pytest.mark.parametrize("kind", TABLES)
def test_features_of_a_layer_are_fitted_indexed_and_found(kind, tmp_path, photos, network, monkeypatch):
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(recipe_with(TABLES[kind])))
    with pytest.raises(RecipeError, match="not fitted yet: run `resight fit`"):
        table = TABLES[kind] | {"weights": str(network)}
        load_local(Recipe.model_validate(recipe_with(table)).local, "mine").extract(read_image(photos / "coffee-1.png"))
    monkeypatch.chdir(tmp_path)
    fitted = fit_recipe("mine.toml", [photos], weights=None, local_weights=network, into=Path("fitted"))
    found_and_kept(load_recipe(fitted), photos, tmp_path, 16)
    moved = (tmp_path / "fitted").rename(tmp_path / "moved")
    assert Describer(load_recipe(moved)).fingerprint
    (moved / "local" / network.name).write_bytes(b"other")
    with pytest.raises(RecipeError, match=r"resnet10t\.safetensors"):
        Describer(load_recipe(moved)).fingerprint  # noqa: B018 - it loads the weights


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize("kind", TABLES)
def test_openvino_computes_the_maps_that_pytorch_does(kind, photos, network):
    stage = Recipe.model_validate(recipe_with(TABLES[kind] | {"weights": str(network)})).local
    image = read_image(photos / "coffee-1.png")
    plain, fast = (load_network_features(stage, engine).maps(image) for engine in ("torch", "openvino"))
    for expected, found in zip(plain, fast, strict=True):
        assert np.abs(found.values - expected.values).max() <= TOLERANCE * np.abs(expected.values).max()


def test_aliked_is_fitted_indexed_and_found(tmp_path, photos, aliked):
    changed = {"model": "aliked-t16", "threshold": 0.0, "max_features": 300}
    table = load_recipe("aliked-asmk").local.model_dump() | changed
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(recipe_with(table)))
    with pytest.raises(RecipeError, match="--local-weights FILE"):
        fit_recipe(tmp_path / "mine.toml", [photos], weights=None, into=tmp_path / "none")
    fitted = fit_recipe(tmp_path / "mine.toml", [photos], weights=None, local_weights=aliked, into=tmp_path / "fitted")
    found_and_kept(load_recipe(fitted), photos, tmp_path, 64)


@pytest.mark.slow
def test_patches_are_fitted_indexed_and_found(tmp_path, photos):
    torch.manual_seed(0)
    weights = tmp_path / "hardtfeat"
    weights.mkdir()
    for name, made in (("HardTFeat", HardTFeatNet()), ("AffNet", AffNet()), ("OriNet", OriNet())):
        torch.save({"state_dict": made.state_dict()}, weights / f"{name}.pth")
    fitted = fit_recipe("hardtfeat-asmk", [photos], weights=None, local_weights=weights, into=tmp_path / "fitted")
    found_and_kept(load_recipe(fitted), photos, tmp_path, 128)


def found_and_kept(recipe, photos, tmp_path, dimension):
    """A photo finds itself first by file and by id, and what is stored of it is what describing it gives.

    Nearly: the worker that indexed it computed with one thread, and sums in another order end in other last bits.
    """
    with Collection.create(tmp_path / "c", recipe) as collection:
        report = collection.add([photos], workers=1)
        assert (report.added, report.failed) == (12, 0)
        photo = next(entry for entry in collection.entries() if entry.origin.endswith("-1.png"))
        by_file, by_id = collection.search(photo.origin), collection.search(photo.id)
        assert by_file.ids[0] == by_id.ids[0] == photo.id
        np.testing.assert_allclose(by_file.scores, by_id.scores, atol=0.02)
        assert collection.verify() == []
    described = Describer(recipe).describe(photo.origin).local
    with Collection.open(tmp_path / "c") as collection:
        snapshot = collection._open_searcher()
        stored = snapshot.stored(int(snapshot.snapshot.positions(np.array([photo.id]))[0])).local
    assert stored.descriptors.shape[1] == dimension and stored.descriptors.dtype == np.int8
    assert np.abs(stored.descriptors - described.descriptors.astype(int)).max() <= 1
    np.testing.assert_allclose(stored.xy, described.xy, atol=1e-3)


def test_small_pictures_are_enlarged_and_keypoints_stay_in_their_pixels(tmp_path, photos, aliked):
    image = read_image(photos / "coffee-1.png", max_side=200)
    table = {"detector": "aliked", "model": "aliked-t16", "threshold": 0.0, "weights": str(aliked)}
    plain, large = (
        load_local(Recipe.model_validate(recipe_with(table | {"enlarge": side})).local, "mine").extract(image)
        for side in (0, 4096)
    )
    by_hand = quantised(Aliked(aliked, "aliked-t16", threshold=0.0).extract(image, max_features=1000))
    np.testing.assert_array_equal(plain.descriptors, by_hand.descriptors)
    np.testing.assert_allclose(large.size, plain.size[0] / 2, rtol=1e-2)
    assert (large.xy.max(axis=0) <= np.array(image.size)).all()


def test_files_decide_the_fingerprint_and_their_places_do_not(tmp_path, aliked):
    table = {"detector": "aliked", "model": "aliked-t16", "weights": str(aliked)}
    recipe = Recipe.model_validate(recipe_with(table))
    elsewhere = tmp_path / "copy.safetensors"
    elsewhere.write_bytes(aliked.read_bytes())
    moved = Recipe.model_validate(recipe_with(table | {"weights": str(elsewhere)}))
    assert Describer(recipe).fingerprint == Describer(moved).fingerprint
    state = safetensors.torch.load_file(elsewhere)
    state["block1.conv1.weight"] += 1
    safetensors.torch.save_file(state, elsewhere)
    assert Describer(recipe).fingerprint != Describer(moved).fingerprint
    with pytest.raises(RecipeError, match=r"sha256 is .* but the recipe was made with 00"):
        wrong = table | {"weights_sha256": "00"}
        load_local(Recipe.model_validate(recipe_with(wrong)).local, "mine")


@given(st.integers(0, 2**32 - 1), st.integers(2, 256))
def test_eight_bits_keep_a_unit_vector(seed, dimension):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(5, dimension))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    one = np.ones(5, np.float32)
    kept = quantised(LocalFeatures(np.ones((5, 2), np.float32), one, one, one, vectors))
    assert kept.descriptors.dtype == np.int8 and kept.unit == 256
    restored = kept.descriptors / kept.unit
    inside = np.abs(vectors) < 127 / 256
    np.testing.assert_allclose(restored[inside], vectors[inside], atol=0.5 / 256 + 1e-7)
    assert (np.sign(restored) * np.sign(vectors) >= 0).all()


def test_a_pinned_revision_is_what_is_downloaded_and_a_file_takes_its_place(monkeypatch, tmp_path):
    stage = load_recipe("how").local.model_copy(update={"revision": "v1"})

    def download(network, *, layers, weights, revision):
        raise RecipeError(f"{weights} {revision}")

    monkeypatch.setattr("resight.networks.backbone.load_backbone", download)
    with pytest.raises(RecipeError, match="None v1"):
        load_network_features(stage)
    (tmp_path / "w.pth").write_bytes(b"weights")
    into = tmp_path / "into"
    into.mkdir()
    placed = place_local(stage, tmp_path / "w.pth", into, "how")
    assert placed.weights and not placed.revision


def test_sizes_tell_the_scale_whatever_the_pictures_size(photos, network):
    """As a Reranking Transformer reads them: by ``local_side``, which is the network's where the picture is larger."""
    local = TABLES["delf"] | {"weights": str(network), "max_side": 128, "scales": [0.5, 1.0], "reduce": "none"}
    recipe = Recipe.model_validate(recipe_with(local | {"dimensions": 128}))
    small = read_image(photos / "coffee-1.png", max_side=128).pixels
    large = read_image(photos / "coffee-1.png", max_side=300).pixels
    assert max(large.shape) > recipe.local_side == 128
    found = [Describer(recipe).describe(pixels) for pixels in (small, large)]
    at_1 = [np.unique(np.round(d.local.size * min(1, recipe.local_side / max(d.size)))) for d in found]
    np.testing.assert_allclose(at_1[0], at_1[1], rtol=0.02)
    np.testing.assert_allclose(at_1[0][1:] / at_1[0][:-1], [2.0], rtol=0.02)
