"""The global describer on a small seeded network: against a plain recomputation, and its refusals."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from PIL import Image as PilImage  # noqa: E402

from resight.describe.fit import fit_whitenings  # noqa: E402
from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.describe.learn import learn_heads, save_learned  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.images.image import Image  # noqa: E402
from resight.networks.torchvision_ops import ensure_torchvision  # noqa: E402
from resight.networks.weights import file_sha256  # noqa: E402
from resight.recipes.network_stages import GlobalStage  # noqa: E402
from resight.recipes.poolings import Gem  # noqa: E402


@pytest.fixture(scope="module")
def network():
    ensure_torchvision()
    import timm

    torch.manual_seed(1)
    return timm.create_model("resnet10t", num_classes=0, global_pool="").eval()


@pytest.fixture
def folder(network, tmp_path):
    """A recipe's folder with the weights in it."""
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    return tmp_path


def stage(**changes):
    facts = {"network": "resnet10t", "max_side": 96, "dimensions": 4, "weights": "w.safetensors"}
    return GlobalStage(**(facts | changes))


def photos(n, height=64, width=80):
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return [np.asarray(PilImage.fromarray(c).resize((width, height))) for c in coarse]


def fitted(folder, **changes):
    describer = GlobalDescriber(stage(**changes), folder)
    images = (Image(pixels, (80, 64), "<array>") for pixels in photos(6))
    (whitening,) = fit_whitenings(describer, images, "noise")
    whitening.save(folder / "whitening.safetensors")
    return stage(whitening="whitening.safetensors", **changes)


def test_raw_is_gem_of_the_networks_features(network, folder):
    (pixels,) = photos(1)
    mean, std = (np.array(network.pretrained_cfg[key]) for key in ("mean", "std"))
    x = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        maps = network.forward_features(x)[0].double().numpy()
    expected = (np.maximum(maps, 1e-6) ** 2.5).mean(axis=(1, 2)) ** (1 / 2.5)
    raw = GlobalDescriber(stage(pooling={"kind": "gem", "p": 2.5}), folder).raw(pixels)
    np.testing.assert_allclose(raw, expected / np.linalg.norm(expected), atol=1e-4)


def test_large_images_are_reduced_to_max_side_and_scales_are_averaged(folder):
    (pixels,) = photos(1, height=120, width=192)
    reduced = {
        side: np.asarray(PilImage.fromarray(pixels).resize(side, PilImage.Resampling.BILINEAR))
        for side in ((96, 60), (48, 30))
    }
    assert reduced[48, 30].shape == (30, 48, 3)
    one = GlobalDescriber(stage(), folder)
    expected = one.raw(reduced[96, 60]) + one.raw(reduced[48, 30])
    both = GlobalDescriber(stage(scales=(1.0, 0.5)), folder).raw(pixels)
    np.testing.assert_allclose(both, expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 400, 3), (500, 2, 3)])
def test_tiny_and_thin_images_are_described(folder, shape):
    out = GlobalDescriber(fitted(folder), folder).describe(np.full(shape, 90, np.uint8))
    assert out.shape == (4,) and np.isfinite(out).all()


def test_descriptors_are_normalised_and_batches_change_nothing(folder):
    describer = GlobalDescriber(fitted(folder, scales=(1.0, 0.7071)), folder)
    images = photos(5)
    batch = describer.describe_views([describer.prepare(pixels) for pixels in images])
    assert batch.dtype == np.float32 and batch.shape == (5, 4)
    np.testing.assert_allclose(np.linalg.norm(batch, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose([describer.describe(pixels) for pixels in images], batch, atol=1e-3)
    again = GlobalDescriber(describer.stage, folder)
    np.testing.assert_array_equal(again.describe_views([again.prepare(pixels) for pixels in images]), batch)
    assert again.fingerprint == describer.fingerprint


def test_whitening_says_what_it_was_fitted_on(folder):
    describer = GlobalDescriber(fitted(folder), folder)
    (whitening,) = describer.whitenings
    assert whitening.fitted_on == "noise" and whitening.n == 6
    assert (whitening.descriptor,) == describer.raw_fingerprints


def test_an_unfitted_recipe_says_what_to_do(folder):
    describer = GlobalDescriber(stage(), folder, recipe="gem-densenet169")
    with pytest.raises(RecipeError) as caught:
        describer.describe(photos(1)[0])
    assert str(caught.value) == (
        "recipe gem-densenet169 has no whitening yet: run `resight fit gem-densenet169 PHOTOS --weights FILE "
        "--into FOLDER` and use --recipe FOLDER"
    )


def test_other_weights_than_the_recipes_are_refused(folder):
    sha256 = file_sha256(folder / "w.safetensors")
    assert GlobalDescriber(stage(weights_sha256=sha256), folder).weights_sha256 == (sha256,)
    with pytest.raises(RecipeError, match=r"w\.safetensors: sha256 is .*, but the recipe was made with 00"):
        GlobalDescriber(stage(weights_sha256="00"), folder)


@pytest.mark.parametrize("change", [{"pooling": Gem(p=2.0)}, {"max_side": 64}, {"scales": (0.5,)}, {"layer": "layer3"}])
def test_a_whitening_for_other_parameters_is_refused(folder, change):
    ready = fitted(folder)
    with pytest.raises(RecipeError, match=r"whitening\.safetensors: was fitted for another"):
        GlobalDescriber(ready.model_copy(update=change), folder)


def test_a_whitening_of_other_dimensions_is_refused(folder):
    ready = fitted(folder)
    with pytest.raises(RecipeError, match="has 4 dimensions, the recipe says 3"):
        GlobalDescriber(ready.model_copy(update={"dimensions": 3}), folder)


def test_fingerprint_follows_the_whitening(folder):
    unfitted = GlobalDescriber(stage(), folder)
    ready = GlobalDescriber(fitted(folder), folder)
    assert unfitted.raw_fingerprints == ready.raw_fingerprints
    assert unfitted.fingerprint != ready.fingerprint


def test_missing_files_are_named(folder):
    with pytest.raises(RecipeError, match=r"nowhere\.npz"):
        GlobalDescriber(stage(weights="nowhere.npz"), folder)
    with pytest.raises(RecipeError, match=r"nowhere\.safetensors"):
        GlobalDescriber(stage(whitening="nowhere.safetensors"), folder)


def test_too_few_photos_to_fit(folder):
    describer = GlobalDescriber(stage(), folder)
    images = (Image(pixels, (80, 64), "<array>") for pixels in photos(4))
    with pytest.raises(RecipeError, match="more than 4 photos"):
        fit_whitenings(describer, images, "noise")


def test_bad_pixels(folder):
    describer = GlobalDescriber(stage(), folder)
    for bad in (np.zeros((40, 40, 3)), np.zeros((40, 40), np.uint8), np.zeros((0, 40, 3), np.uint8)):
        with pytest.raises(ValueError, match="H×W×3 uint8"):
            describer.raw(bad)


GRID = {"kind": "grid", "levels": 2}
SYSTEMS = {
    "whole": {},
    "scales": {"scales": (1.0, 0.7071)},
    "R-MAC": {"pooling": "mac", "scheme": GRID, "whiten": "regions"},
    "pyramid": {"scheme": {"kind": "pyramid", "aggregate": "concatenate"}},
    "dense pixels": {"scheme": {"kind": "dense", "sides": (64, 48), "side": 64}},
    "grid of pixels": {"scheme": {**GRID, "on": "pixels", "side": 64}},
    "patches": {"scheme": {"kind": "dog", "top": 6}},
    "layers joined": {"also": ({"layer": "layer2", "pooling": "average"},)},
    "layers by rank": {"also": ({"layer": "layer2", "dimensions": 3},), "fusion": "ranks"},
    "fed in two ways": {"also": ({"max_side": 48, "scales": (1.0, 0.7)}, {"scheme": {"kind": "dog", "top": 3}})},
}


def sized():
    """Photos of five shapes, of which two share one."""
    return [photos(1, *size)[0] for size in ((64, 80), (80, 64), (96, 96), (64, 80), (50, 90))]


def fit(folder, stage):
    """The stage with the whitenings it needs, learned from noise."""
    describer = GlobalDescriber(stage, folder)
    made = fit_whitenings(describer, (Image(p, p.shape[1::-1], "<array>") for p in sized() * 2), "noise")
    for place, whitening in enumerate(made):
        whitening.save(folder / f"whitening-{place}.safetensors")
    also = tuple({**o, "whitening": f"whitening-{n}.safetensors"} for n, o in enumerate(stage.also, 1) if stage.late)
    return stage.model_copy(update={"whitening": "whitening-0.safetensors", "also": also or stage.also})


@pytest.mark.parametrize("system", SYSTEMS)
def test_mixed_sizes_in_one_batch_change_nothing(folder, system):
    describer = GlobalDescriber(fit(folder, stage(**SYSTEMS[system])), folder)
    images = sized()
    together = describer.describe_views([describer.prepare(pixels) for pixels in images])
    alone = np.stack([describer.describe(pixels) for pixels in images])
    assert together.shape == (5, sum(describer.stage.lengths))
    # Whitening noise by ten photos enlarges rounding.
    np.testing.assert_allclose(together, alone, atol=2e-3)
    again = GlobalDescriber(describer.stage, folder)
    np.testing.assert_array_equal(again.describe_views([again.prepare(pixels) for pixels in images]), together)
    streamed = list(again.describe_each(again.prepare(pixels) for pixels in images))
    np.testing.assert_allclose(streamed, together, atol=1e-6)


def test_branches_that_are_fed_otherwise_see_their_own_pictures(folder):
    """Each describes as it does alone, whatever is fed beside it."""
    ways = [{}, {"max_side": 48, "scales": (1.0, 0.7)}, {"scheme": {"kind": "dog", "top": 3}}]
    raw = {"whiten": "none", "dimensions": 512}
    together = GlobalDescriber(stage(also=tuple(ways[1:]), fusion="scores", **raw), folder)
    alone = [GlobalDescriber(stage(**raw | way), folder) for way in ways]
    expected = [np.concatenate([one.describe(pixels) for one in alone]) for pixels in sized()]
    np.testing.assert_allclose(list(together.describe_each(map(together.prepare, sized()))), expected, atol=1e-4)


def test_pairs_of_words_need_as_many_regions_of_both_layers(folder):
    words = {"embedding": {"kind": "bow", "words": 4, "idf": False}, "fusion": "deep-index", "whiten": "none"}
    unlearned = stage(layer="layer4", also=({"layer": "layer2"},), dimensions=16, **words)
    describer = GlobalDescriber(unlearned, folder)
    learned = learn_heads(describer, (Image(p, p.shape[1::-1], "<array>") for p in sized()), 5, "noise")
    files = [folder / str(place) for place in learned]
    for file, value in zip(files, learned.values(), strict=True):
        file.mkdir()
        save_learned(value, file, 0)
    paths = [str(file / "embedding.safetensors") for file in files]
    ready = unlearned.model_copy(update={"learned": paths[0], "also": ({"layer": "layer2", "learned": paths[1]},)})
    with pytest.raises(RecipeError, match="layer layer4 has 6 regions in a picture in which layer layer2 has 80"):
        GlobalDescriber(ready, folder).describe(sized()[0])


def test_rmac_is_the_sum_of_whitened_maxima_over_the_papers_grid(network, folder):
    """Tolias, Sicre & Jégou 2016, by hand: a 3×5 map has, at level 1, squares of side 3; at level 2, of side 2."""
    pixels = photos(1, 96, 160)[0]
    describer = GlobalDescriber(stage(max_side=160, whiten="none", dimensions=512, pooling="mac", scheme=GRID), folder)
    mean, std = (np.array(network.pretrained_cfg[key]) for key in ("mean", "std"))
    x = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        maps = network.forward_features(x)[0].double().numpy()
    assert maps.shape[1:] == (3, 5)
    squares = [(0, 0, 3), (2, 0, 3)] + [(left, top, 2) for top in (0, 1) for left in (0, 1.5, 3)]
    total = np.zeros(512)
    for left, top, side in squares:
        cells = slice(int(np.floor(left)), int(np.ceil(left + side)))  # every cell that the square touches
        region = maps[:, top : top + side, cells].max(axis=(1, 2))
        total += region / np.linalg.norm(region)
    np.testing.assert_allclose(describer.describe(pixels), total / np.linalg.norm(total), atol=1e-4)


def test_late_fusion_keeps_each_branchs_own_descriptor(folder):
    both = fit(folder, stage(**SYSTEMS["layers by rank"]))
    pixels = photos(1)[0]
    joined = GlobalDescriber(both, folder).describe(pixels)
    first = GlobalDescriber(both.model_copy(update={"also": (), "fusion": "concatenate"}), folder).describe(pixels)
    np.testing.assert_allclose(joined[:4], first, atol=1e-6)
    assert joined.shape == (7,) and np.linalg.norm(joined[4:]) == pytest.approx(1, abs=1e-5)


def test_an_unwhitened_recipe_has_to_say_its_length(folder):
    describer = GlobalDescriber(stage(whiten="none"), folder)
    with pytest.raises(RecipeError, match="say dimensions = 512, not 4"):
        describer.describe(photos(1)[0])
