"""Weighted sums against loops; what every pooling of this room owes to its input, whichever it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from resight.pooling.average import average  # noqa: E402
from resight.pooling.cam import cam_crow  # noqa: E402
from resight.pooling.crow import crow  # noqa: E402
from resight.pooling.gram import gram  # noqa: E402
from resight.pooling.heat_diffusion import heat_diffusion  # noqa: E402
from resight.pooling.mac import mac  # noqa: E402
from resight.pooling.rmac import r_mac  # noqa: E402
from resight.pooling.sba import pwa  # noqa: E402
from resight.pooling.spoc import spoc  # noqa: E402
from resight.pooling.sum_pooling import sum_pooling, unit, weighted_sum  # noqa: E402

CHANNELS = 5
CLASSIFIER = torch.randn(4, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SCALE_FREE = {
    "sum": sum_pooling,
    "average": average,
    "mac": mac,
    "spoc": spoc,
    "crow": crow,
    "cam": lambda x: cam_crow(x, CLASSIFIER.to(x), torch.tensor([0, 2])),
    "pwa": lambda x: pwa(x, torch.tensor([3, 0])),
    "heat": heat_diffusion,
    "gram": gram,
    "r-mac": lambda x: r_mac(x, 2),
}
ORDERLESS = {name: pool for name, pool in SCALE_FREE.items() if name not in ("spoc", "r-mac")}


def relu_map(seed, batch=2, height=4, width=5, dtype=torch.float64):
    """Half zeros, as after a ReLU, with a dead channel and a dead position."""
    x = torch.randn(batch, CHANNELS, height, width, dtype=dtype, generator=torch.Generator().manual_seed(seed)).relu()
    x[0, 1] = 0
    x[:, :, 0, 0] = 0
    return x


def test_sum_and_weighted_sums_equal_loops():
    x = relu_map(0).numpy()
    weights = np.random.default_rng(0).random((2, 3, 4, 5))
    summed, single, several = np.zeros((2, 5)), np.zeros((2, 5)), np.zeros((2, 3, 5))
    for b, c, h, w in np.ndindex(x.shape):
        summed[b, c] += x[b, c, h, w]
        single[b, c] += x[b, c, h, w] * weights[b, 0, h, w]
        for t in range(3):
            several[b, t, c] += x[b, c, h, w] * weights[b, t, h, w]
    x, weights = torch.from_numpy(x), torch.from_numpy(weights)
    np.testing.assert_allclose(sum_pooling(x), summed)
    np.testing.assert_allclose(weighted_sum(x, weights[:, 0]), single)
    np.testing.assert_allclose(weighted_sum(x, weights), several)
    np.testing.assert_allclose(weighted_sum(x, weights[0, 0])[0], single[0])


def test_unit_vectors():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit(x).sum().backward()
    torch.testing.assert_close(unit(x), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert x.grad.abs().max() < 10


@pytest.mark.parametrize("name", SCALE_FREE)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-4, 1e4))
def test_scaled_activations_change_no_direction(name, seed, scale):
    x = relu_map(seed)
    pool = SCALE_FREE[name]
    torch.testing.assert_close(unit(pool(x * scale)), unit(pool(x)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ORDERLESS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(20)))
def test_order_of_positions_does_not_matter(name, seed, order):
    x = relu_map(seed)
    shuffled = x.flatten(2)[:, :, list(order)].reshape(x.shape)
    torch.testing.assert_close(ORDERLESS[name](shuffled), ORDERLESS[name](x))


@pytest.mark.parametrize("name", SCALE_FREE)
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 6), (5, 4)])
def test_mirrored_map_gives_the_same(name, shape):
    x = relu_map(3, height=shape[0], width=shape[1])
    torch.testing.assert_close(SCALE_FREE[name](x.flip(3)), SCALE_FREE[name](x))


@pytest.mark.parametrize("name", SCALE_FREE)
def test_an_image_does_not_depend_on_its_batch(name):
    x = relu_map(4, batch=3)
    alone = torch.cat([SCALE_FREE[name](image[None]) for image in x])
    torch.testing.assert_close(SCALE_FREE[name](x), alone)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_gradients(name):
    x = (relu_map(5) + 0.01 * torch.rand(2, 5, 4, 5, dtype=torch.float64)).requires_grad_()
    if name == "crow":  # the count in its channel weights is a step: finite differences must not cross it
        x = (x.detach() + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(SCALE_FREE[name], x)


@pytest.mark.parametrize("name", SCALE_FREE)
def test_dead_maps_positions_and_channels_stay_finite_in_float32(name):
    x = relu_map(6, batch=3, dtype=torch.float32)
    x[1] = 0
    x[2] *= 1e15
    x.requires_grad_()
    pooled = SCALE_FREE[name](x)
    assert pooled.isfinite().all() and (pooled[1] == 0).all() and pooled[2].any()
    unit(pooled).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", SCALE_FREE)
def test_another_shape_is_refused(name):
    with pytest.raises(ValueError, match="x must be B×C×H×W"):
        SCALE_FREE[name](torch.ones(CHANNELS, 4, 4))
    with pytest.raises(ValueError, match="H and W at least 1"):
        SCALE_FREE[name](torch.ones(1, CHANNELS, 0, 4))


def test_weights_that_do_not_fit_are_refused():
    for shape in [(4,), (5, 4), (3, 4, 5), (1, 1, 2, 4, 5)]:
        with pytest.raises(ValueError, match="do not fit"):
            weighted_sum(relu_map(0), torch.ones(shape))
