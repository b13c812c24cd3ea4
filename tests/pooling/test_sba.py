"""PWA against a loop, and its choice of channels against variances worked out by numpy."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.pooling.sba import Pwa, part_weights, pwa, select_channels  # noqa: E402
from resight.pooling.sum_pooling import sum_pooling  # noqa: E402


def naive_pwa(x, channels, alpha, beta):
    """One C×H×W map."""
    parts = []
    for k in channels:
        norm = sum(value**alpha for value in x[k].flat) ** (1 / alpha)
        weights = (x[k] / norm) ** (1 / beta) if norm else x[k]
        parts.extend((weights * channel).sum() for channel in x)
    return parts


@pytest.mark.parametrize(("alpha", "beta"), [(2, 2), (1, 1), (3, 0.7)])
def test_equals_the_naive_loop(alpha, beta):
    x = np.random.default_rng(0).standard_normal((3, 5, 4, 6)).clip(0)
    x[2, 1] = 0
    channels = [4, 1, 2]
    expected = [naive_pwa(image, channels, alpha, beta) for image in x]
    pooled = pwa(torch.from_numpy(x), torch.tensor(channels), alpha, beta)
    assert pooled.shape == (3, 15)
    np.testing.assert_allclose(pooled, expected, rtol=1e-12)
    torch.testing.assert_close(Pwa(channels, alpha, beta)(torch.from_numpy(x)), pooled)


def test_part_weights_by_hand():
    x = torch.tensor([[[[3.0, 4.0]], [[1.0, 0.0]], [[0.0, 0.0]]]])
    expected = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]], [[0.6, 0.8]]]])
    torch.testing.assert_close(part_weights(x, torch.tensor([1, 2, 0]), alpha=2, beta=1), expected)


def test_channels_that_vary_most_over_a_collection():
    spread = np.array([0.1, 3.0, 1.0, 2.0])
    x = np.random.default_rng(0).random((50, 4, 1, 1)) * spread[:, None, None]
    variance = sum_pooling(torch.from_numpy(x)).var(dim=0)
    assert select_channels(variance, 3).tolist() == np.argsort(-x[:, :, 0, 0].var(axis=0))[:3].tolist() == [1, 3, 2]


def test_equal_variances_go_by_channel():
    assert select_channels(torch.tensor([1.0, 2.0, 2.0, 1.0, 2.0]), 4).tolist() == [1, 2, 4, 0]
    assert select_channels(torch.ones(300), 300).tolist() == list(range(300))


def test_module_saves_its_channels():
    assert Pwa([3, 1]).state_dict()["channels"].tolist() == [3, 1]


def test_bad_input():
    x = torch.ones(1, 3, 2, 2)
    for channels in ([3], [-1], [[0]]):
        with pytest.raises(ValueError, match="from 0 to 2"):
            pwa(x, torch.tensor(channels))
    with pytest.raises(ValueError, match="exponent"):
        pwa(x, torch.tensor([0]), alpha=0.5)
    with pytest.raises(ValueError, match="cannot select 4"):
        select_channels(torch.ones(3), 4)
    with pytest.raises(ValueError, match="cannot select 0"):
        select_channels(torch.ones(3), 0)
