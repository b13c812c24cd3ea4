"""The differentiable descriptor is the recipe's own, and its gradients are differences of it."""

import numpy as np
import pytest
import tomli_w

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.describe.fit import fit_recipe  # noqa: E402
from resight.describe.global_descriptor import GlobalDescriber  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.networks.architectures import create_free_size  # noqa: E402
from resight.projection.projection import Projection  # noqa: E402
from resight.recipes import Recipe, load_recipe  # noqa: E402
from resight.robustness.gradients import PixelDescriber, as_pixels, as_tensor  # noqa: E402

pytestmark = pytest.mark.usefixtures("sketched_once")

STAGE = {"network": "test_resnet.r160_in1k", "layer": "layer3", "max_side": 64, "whiten": "none"}
CASES = {
    "one scale": {"scales": [1.0]},
    "scales": {"scales": [1.0, 0.7071, 0.5]},
    "the generalised mean of scales": {"scales": [1.0, 0.5], "scale_pooling": "gem"},
    "regions": {"scales": [1.0, 0.5], "pooling": "mac", "scheme": {"kind": "grid", "levels": 2}},
    "two layers and a power": {
        "scales": [1.0, 0.7071],
        "power": 0.5,
        "pooling": "mac",
        "also": [{"layer": "layer4", "weight": 0.5}],
    },
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network, _ = create_free_size(STAGE["network"])
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    return file


def table_of(weights, **changes):
    stage = {**STAGE, "weights": str(weights), **changes}
    return {"name": "tiny", "title": "", "source": "", "filter": "global", "global": stage}


def described(recipe, pixels):
    return PixelDescriber(recipe)(as_tensor(pixels).float()).numpy()


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_descriptor_that_is_searched_with(name, weights, pictures):
    recipe = Recipe.model_validate(table_of(weights, **CASES[name]))
    pixels = pictures["coffee"][:150]
    found, expected = described(recipe, pixels), GlobalDescriber(recipe.global_, None).raw(pixels)
    # Pillow rounds between its two passes, so that some values differ by one.
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert found @ expected > 0.99999


def test_an_adapter_is_attacked_as_it_is_searched_by(weights, pictures):
    recipe = Recipe.model_validate(table_of(weights, scales=[1.0]))
    pixels = pictures["coffee"][:150]
    plain = described(recipe, pixels)
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(7, len(plain))).astype(np.float32)
    mean = (0.5 * plain).clip(0.02).astype(np.float32)  # not along the vector, or it would not matter
    adapter = Projection(mean, matrix, "pca-whitening", 9, "made up", "")
    found = PixelDescriber(recipe, adapter)(as_tensor(pixels).float()).numpy()
    np.testing.assert_allclose(found, adapter.transform(plain), atol=1e-5)


@pytest.mark.parametrize("changes", [{"scales": [1.0, 0.7071]}, {"whiten": "regions", **CASES["regions"]}])
def test_a_fitted_whitening_comes_after_the_scales(changes, weights, photos, pictures, tmp_path):
    table = table_of(weights, **{"whiten": "image", "dimensions": 6, **changes})
    (tmp_path / "r.toml").write_text(tomli_w.dumps(table))
    recipe = load_recipe(fit_recipe(tmp_path / "r.toml", [photos], weights=None, into=tmp_path / "fitted"))
    pixels = pictures["rocket"][::5, ::5]  # not resized at the first scale
    found, expected = described(recipe, pixels), GlobalDescriber(recipe.global_, None).describe(pixels)
    assert found.shape == (6,) and found @ expected > 0.9999
    with pytest.raises(RecipeError, match="has no whitening yet"):
        PixelDescriber(Recipe.model_validate(table))


def test_gradients_are_differences(weights, pictures, monkeypatch):
    """Without rounding, which has no slope; in single precision, so along the steepest way."""
    recipe = Recipe.model_validate(table_of(weights, scales=[1.0, 0.7071], pooling="average"))
    describe = PixelDescriber(recipe)
    monkeypatch.setattr("resight.robustness.gradients.straight_through", lambda x, value: x)
    x = as_tensor(pictures["chelsea"][:90]).float().requires_grad_()
    rng = np.random.default_rng(0)
    away = torch.from_numpy(rng.normal(size=len(describe(x)))).float()
    (slope,) = torch.autograd.grad((describe(x) * away).sum(), x)
    direction = slope / slope.norm()  # along which differences rise above float32's rounding
    with torch.no_grad():
        ahead, behind = ((describe(x + sign * 20 * direction) * away).sum() for sign in (1, -1))
    assert float(ahead - behind) / 40 == pytest.approx(float(slope.norm()), rel=0.03)


def test_what_has_no_gradient_is_refused(weights):
    with pytest.raises(RecipeError, match=r"rootsift-asmk has no \[global\] table"):
        PixelDescriber(load_recipe("rootsift-asmk"))
    differing = {"scales": [1.0], "also": [{"layer": "layer4", "scales": [0.5]}]}
    with pytest.raises(RecipeError, match="differ in scales"):
        PixelDescriber(Recipe.model_validate(table_of(weights, **differing)))


def test_pixels_go_there_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(as_pixels(as_tensor(pixels).float()), pixels)
