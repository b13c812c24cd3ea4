"""Heat diffusion against its boundary problems, solved one source at a time, and against closed forms."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.pooling.heat_diffusion import heat_diffusion, heat_weights  # noqa: E402


def conductances(x, mean, threshold, ground):
    """(A, Z) of one C×H×W map."""
    raw = x.reshape(len(x), -1).T
    features = raw - mean
    n = len(features)
    a = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j and (raw[i].any() or raw[j].any()):
                lengths = np.linalg.norm(features[i]) * np.linalg.norm(features[j])
                cosine = features[i] @ features[j] / lengths if lengths else 0.0
                a[i, j] = cosine if cosine >= threshold else 0.0
    return a, ground * a[a > 0].mean()


def naive_weights(x, mean, threshold=0.1, ground=0.1):
    """Hold each node at 1, find where the others come to rest, and add up the temperatures."""
    a, leak = conductances(x, mean, threshold, ground)
    weights = []
    for source in range(len(a)):
        others = np.arange(len(a)) != source
        # Each other node's temperature times all it conducts is what its neighbours give; the ground gives nothing.
        balance = np.diag(a.sum(axis=1) + leak) - a
        u = np.linalg.solve(balance[np.ix_(others, others)], a[others, source])
        weights.append(1 / (1 + u.sum()))
    return np.reshape(weights, x.shape[1:])


@pytest.mark.parametrize(("threshold", "ground"), [(0.1, 0.1), (0.3, 1.0), (0.0, 0.5)])
def test_equals_the_boundary_problems(threshold, ground):
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 4)).clip(0)
    x[0, :, 0, :2] = 0
    mean = np.full(4, 0.3)
    expected = [naive_weights(image, mean, threshold, ground) for image in x]
    weights = heat_weights(torch.from_numpy(x), torch.from_numpy(mean), threshold, ground)
    np.testing.assert_allclose(weights, expected, rtol=1e-8)
    pooled = heat_diffusion(torch.from_numpy(x), torch.from_numpy(mean), threshold, ground)
    np.testing.assert_allclose(pooled, [(w * image).sum(axis=(1, 2)) for w, image in zip(expected, x, strict=True)])


@pytest.mark.parametrize("burst", [2, 5, 50])
def test_a_burst_counts_as_little_more_than_one_feature(burst):
    x = torch.zeros(1, 2, 1, burst + 1, dtype=torch.float64)
    x[0, 0, 0, :burst] = 1.0
    x[0, 1, 0, burst] = 1.0
    z = 0.1
    pooled = heat_diffusion(x, ground=z)
    torch.testing.assert_close(pooled[0, 0].item(), burst * (1 + z) / (burst + z))
    assert pooled[0, 1] == 1.0


def test_features_unlike_each_other_are_summed_as_they_are():
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0])).reshape(1, 3, 1, 3)
    torch.testing.assert_close(heat_weights(x), torch.ones(1, 1, 3))
    torch.testing.assert_close(heat_diffusion(x), torch.tensor([[1.0, 2.0, 3.0]]))


def test_single_position_weighs_one():
    torch.testing.assert_close(heat_diffusion(torch.tensor([[[[2.0]], [[5.0]]]])), torch.tensor([[2.0, 5.0]]))


def test_float32_and_half_are_close_to_float64_on_a_large_map():
    x = torch.rand(1, 32, 20, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = heat_weights(x)
    assert exact.min() > 0 and exact.max() <= 1
    torch.testing.assert_close(heat_weights(x.float()).double(), exact, rtol=1e-3, atol=0)
    half = heat_weights(x.half())
    assert half.dtype == torch.half
    torch.testing.assert_close(half.double(), exact, rtol=0.05, atol=0)


def test_bad_input():
    x = torch.ones(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"mean must be \(3,\)"):
        heat_weights(x, torch.ones(2))
    with pytest.raises(ValueError, match="ground above 0"):
        heat_weights(x, ground=0)
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        heat_weights(x, threshold=-0.1)
