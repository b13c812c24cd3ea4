"""Saliency: weights and pooling against loops; the spectral residual against OpenCV's own, and against scipy."""

import cv2
import numpy as np
import pytest
from scipy import fft, ndimage
from skimage import data

torch = pytest.importorskip("torch")

from resight.pooling.gem import gem  # noqa: E402
from resight.pooling.saliency import (  # noqa: E402
    feature_saliency,
    saliency_gem,
    saliency_sum,
    saliency_weights,
    spectral_residual,
    weighted_gem,
)

GENERATOR = torch.Generator()


@pytest.fixture
def maps():
    return torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=GENERATOR.manual_seed(0))


@pytest.fixture
def saliency():
    return torch.rand(2, 1, 8, 18, dtype=torch.float64, generator=GENERATOR.manual_seed(1))


def test_weights_are_shares_of_the_saliency_in_each_cell(maps, saliency):
    blocks = saliency.numpy().reshape(2, 4, 2, 6, 3).sum(axis=(2, 4))
    np.testing.assert_allclose(saliency_weights(maps, saliency)[:, 0], blocks / blocks.sum(axis=(1, 2), keepdims=True))
    torch.testing.assert_close(saliency_weights(maps, 255 * saliency), saliency_weights(maps, saliency))


def test_a_smaller_saliency_is_interpolated(maps):
    coarse = torch.tensor([[[[1.0, 5.0]]], [[[0.0, 0.0]]]])  # 1×2 to 4×6: constant down, linear between the middles
    across = np.interp((np.arange(6) + 0.5) / 3, [0.5, 1.5], [1, 5])
    weights = saliency_weights(maps, coarse)
    np.testing.assert_allclose(weights[0, 0], np.tile(across, (4, 1)) / (4 * across.sum()), rtol=1e-6)
    np.testing.assert_array_equal(weights[1, 0], 1 / 24)  # nothing salient: all the same
    assert weights.dtype == maps.dtype


def test_sum_and_gem_by_loops(maps, saliency):
    weights = saliency_weights(maps, saliency)
    for b, c in np.ndindex(2, 3):
        pairs = [(weights[b, 0, h, w].item(), maps[b, c, h, w].item()) for h, w in np.ndindex(4, 6)]
        assert saliency_sum(maps, saliency)[b, c].item() == pytest.approx(sum(w * v for w, v in pairs))
        raised = sum(w * max(v, 1e-6) ** 2.5 for w, v in pairs) / sum(w for w, _ in pairs)
        assert saliency_gem(maps, saliency, 2.5)[b, c].item() == pytest.approx(raised**0.4)


def test_even_saliency_is_plain_pooling(maps):
    even = torch.full((2, 1, 9, 9), 3.0)
    torch.testing.assert_close(saliency_sum(maps, even), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(saliency_gem(maps, even), gem(maps))


def test_what_has_no_weight_has_no_say(maps):
    weights = torch.zeros(2, 1, 4, 6, dtype=torch.float64)
    weights[:, :, 1:3, 2:4] = 0.3
    torch.testing.assert_close(weighted_gem(maps, weights, 4.0), gem(maps[:, :, 1:3, 2:4], 4.0))
    huge = torch.where(weights > 0, torch.tensor(1e-3), torch.tensor(1e20)).float().expand(2, 3, 4, 6)
    torch.testing.assert_close(weighted_gem(huge, weights.float(), 5.0), torch.full((2, 3), 1e-3))


def test_gradients(maps):
    x = (maps.abs() + 0.1).requires_grad_()
    weights = torch.rand(2, 1, 4, 6, dtype=torch.float64, generator=GENERATOR.manual_seed(2)).requires_grad_()
    p = torch.tensor(2.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weighted_gem, (x, weights, p))


def test_the_norm_as_saliency():
    x = torch.tensor([[[[3.0, 0.0]], [[4.0, -2.0]]]])
    assert feature_saliency(x).tolist() == [[[[5.0, 2.0]]]]
    torch.testing.assert_close(saliency_sum(x, feature_saliency(x)), torch.tensor([[15 / 7, 16 / 7]]))


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_spectral_residual_by_scipy(name):
    image = np.ascontiguousarray(getattr(data, name)()[:300, 40:])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_LINEAR_EXACT).astype(float)
    spectrum = fft.fft2(small)
    log = np.log(1 + np.abs(spectrum))
    magnitude = np.exp(log - ndimage.uniform_filter(log, 3, mode="mirror"))
    back = np.abs(fft.ifft2(magnitude * spectrum / np.abs(spectrum)))
    bell = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 8**2))
    bell /= bell.sum()
    smooth = ndimage.correlate(back, np.outer(bell, bell), mode="mirror") ** 2
    expected = cv2.resize(
        (smooth / smooth.max()).astype(np.float32), grey.shape[::-1], interpolation=cv2.INTER_LINEAR_EXACT
    )
    saliency = spectral_residual(image)
    assert saliency.dtype == np.float32
    np.testing.assert_allclose(saliency, expected, atol=1e-5)


def test_spectral_residual_is_opencvs():
    if not hasattr(cv2, "saliency"):
        pytest.skip("this OpenCV has no contributed modules: pip install opencv-contrib-python-headless")
    for image in (data.astronaut(), data.chelsea(), np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)):
        done, expected = cv2.saliency.StaticSaliencySpectralResidual.create().computeSaliency(image[:, :, ::-1].copy())
        assert done
        np.testing.assert_allclose(spectral_residual(image), expected, atol=1e-4)


def test_the_odd_one_out_is_salient():
    image = np.stack([data.grass()[:256, :256]] * 3, axis=-1)
    image[100:124, 60:84] = 255
    saliency = spectral_residual(image)
    y, x = np.unravel_index(saliency.argmax(), saliency.shape)
    assert 100 <= y < 124 and 60 <= x < 84
    assert saliency[100:124, 60:84].mean() > 3 * saliency.mean()
    np.testing.assert_array_equal(spectral_residual(np.full((30, 40, 3), 200, np.uint8)), 1)


def test_bad_input(maps, saliency):
    for bad in (saliency[:1], saliency[:, 0], saliency[..., :0]):
        with pytest.raises(ValueError, match="saliency must be 2×1×h×w"):
            saliency_weights(maps, bad)
    for value in (-0.1, float("nan"), float("inf")):
        saliency[1, 0, 2, 2] = value
        with pytest.raises(ValueError, match="finite and at least 0"):
            saliency_sum(maps, saliency)
    empty = torch.ones(2, 1, 4, 6)
    empty[1] = 0
    for bad in (empty, torch.ones(2, 4, 6), -torch.ones(2, 1, 4, 6)):
        with pytest.raises(ValueError, match="weights must be B×1×H×W"):
            weighted_gem(maps, bad)
    with pytest.raises(ValueError, match="p must be above 0"):
        weighted_gem(maps, torch.ones(2, 1, 4, 6), 0.0)
    with pytest.raises(ValueError, match="H×W×3 uint8"):
        spectral_residual(np.zeros((4, 4), np.uint8))
