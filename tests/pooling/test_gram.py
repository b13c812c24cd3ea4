"""Gram weights against a loop over pairs of channels, and for channels alone and repeated."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.pooling.gram import gram, gram_weights  # noqa: E402


def naive_weights(x):
    """One C×H×W map."""
    strength = [0.0] * len(x)
    for c, first in enumerate(x):
        for second in x:
            lengths = math.sqrt((first**2).sum() * (second**2).sum())
            if lengths:
                strength[c] += abs((first * second).sum()) / lengths
    return [math.log(sum(strength) / s) if s else 0.0 for s in strength]


@pytest.mark.parametrize("negative", [False, True])
def test_equals_the_naive_loop(negative):
    x = np.random.default_rng(0).standard_normal((3, 4, 3, 5))
    if not negative:
        x = x.clip(0)
    x[1, 2] = 0
    weights = np.array([naive_weights(image) for image in x])
    np.testing.assert_allclose(gram_weights(torch.from_numpy(x)), weights, rtol=1e-12)
    np.testing.assert_allclose(gram(torch.from_numpy(x)), weights * x.sum(axis=(2, 3)), rtol=1e-12)


def test_repeated_channels_weigh_less_than_one_that_fires_alone():
    x = torch.zeros(1, 4, 1, 2, dtype=torch.float64)
    x[0, :3, 0, 0] = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
    x[0, 3, 0, 1] = 5.0  # g = 3, 3, 3, 1
    expected = [math.log(10 / 3)] * 3 + [math.log(10)]
    torch.testing.assert_close(gram_weights(x), torch.tensor([expected], dtype=torch.float64))
