"""CroW against loops from its definition and numbers worked by hand."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.pooling.crow import channel_weights, crow, normalised_power, spatial_weights  # noqa: E402


def naive_crow(x, a, b):
    """One C×H×W map, from the paper's text."""
    channels, height, width = x.shape
    total = sum(x[:, h, w].sum() ** a for h in range(height) for w in range(width)) ** (1 / a)
    firing = [sum(value > 0 for value in x[c].flat) / (height * width) for c in range(channels)]
    pooled = np.zeros(channels)
    for c in range(channels):
        weight = math.log(sum(firing) / firing[c]) if firing[c] else 0.0
        for h in range(height):
            for w in range(width):
                pooled[c] += weight * (x[:, h, w].sum() / total) ** (1 / b) * x[c, h, w]
    return pooled


@pytest.fixture
def maps():
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).clip(0)
    x[1, 2] = 0
    x[2, :, 3, 1] = 0
    return x


@pytest.mark.parametrize(("a", "b"), [(2, 2), (1, 1), (2, 1), (3, 0.5), (1.5, 4)])
def test_equals_the_naive_loop(maps, a, b):
    expected = [naive_crow(x, a, b) for x in maps]
    np.testing.assert_allclose(crow(torch.from_numpy(maps), a, b), expected, rtol=1e-12)


def test_spatial_weights_by_hand():
    x = torch.tensor([[[[1.0, 3.0]], [[2.0, 1.0]]]])  # sums 3 and 4, norm 5
    torch.testing.assert_close(spatial_weights(x), torch.tensor([[[math.sqrt(0.6), math.sqrt(0.8)]]]))


def test_channel_weights_by_hand():
    x = torch.zeros(1, 3, 2, 2)
    x[0, 0] = 1.0
    x[0, 1, 0, 0] = 7.0  # Q = 1, 1/4, 0
    torch.testing.assert_close(channel_weights(x), torch.tensor([[math.log(1.25), math.log(5.0), 0.0]]))


def test_rare_channels_weigh_more_whatever_they_are_worth(maps):
    x = torch.from_numpy(maps)
    torch.testing.assert_close(channel_weights(x * 1000), channel_weights(x))
    counts = (maps > 0).sum(axis=(2, 3))[0]
    assert np.argsort(-channel_weights(x)[0].numpy(), kind="stable").tolist() == np.argsort(counts).tolist()


def test_norm_survives_values_whose_powers_leave_float32():
    weights = normalised_power(torch.tensor([[[3e30, 4e30]], [[3e-30, 4e-30]]]), 2, 1)
    torch.testing.assert_close(weights, torch.tensor([[[0.6, 0.8]], [[0.6, 0.8]]]))


def test_negative_sums_weigh_nothing():
    torch.testing.assert_close(spatial_weights(torch.tensor([[[[-5.0, 2.0]]]])), torch.tensor([[[0.0, 1.0]]]))


def test_bad_exponents():
    for a, b in [(0.5, 2), (2, 0), (2, -1)]:
        with pytest.raises(ValueError, match="at least 1"):
            spatial_weights(torch.ones(1, 1, 1, 1), a, b)
