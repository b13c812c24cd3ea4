"""RN-BoF against a loop over its equations, and at its start."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.embedding.learned_bof import LearnedBof  # noqa: E402


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def layer_of(k, c, norm="l2"):
    return LearnedBof(torch.as_tensor(draw(k, c, seed=1)), torch.as_tensor(1 + draw(k, c, seed=2) ** 2), norm)


def naive_bof(features, centres, widths, norm):
    histogram = np.zeros(len(centres))
    for x in features:
        memberships = [np.exp(-np.sqrt((((x - v) * w) ** 2).sum())) for v, w in zip(centres, widths, strict=True)]
        histogram += np.array(memberships) / sum(memberships)
    histogram /= len(features)
    return histogram / (np.abs(histogram).sum() if norm == "l1" else np.sqrt((histogram**2).sum()))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_by_a_loop(norm):
    layer, features = layer_of(5, 4, norm), draw(20, 4)
    expected = naive_bof(features, layer.centres.detach().numpy(), layer.widths.detach().numpy(), norm)
    np.testing.assert_allclose(layer(torch.as_tensor(features)[None])[0].detach().numpy(), expected, atol=1e-10)
    assert layer.dimension == 5


def test_narrow_centres_count_nearest_neighbours():
    centres, features = draw(6, 4, seed=1), draw(200, 4)
    nearest = np.linalg.norm(features[:, None] - centres, axis=2).argmin(axis=1)
    layer = LearnedBof.from_kmeans(centres, features, ratio=1e-300, norm="l1")
    out = layer(torch.as_tensor(features).float()[None])[0].detach().numpy()
    np.testing.assert_allclose(out, np.bincount(nearest, minlength=6) / 200, atol=0.01)


def test_it_starts_with_the_second_centre_at_a_hundredth_of_the_first():
    centres, features = draw(6, 4, seed=1), draw(200, 4)
    layer = LearnedBof.from_kmeans(centres, features)
    width = layer.widths.detach().numpy()
    assert np.ptp(width) == 0
    ordered = np.sort(np.linalg.norm(features[:, None] - centres, axis=2), axis=1)
    assert width[0, 0] * np.mean(ordered[:, 1] - ordered[:, 0]) == pytest.approx(np.log(100), rel=1e-5)


def test_a_feature_on_a_centre_has_gradients():
    layer = layer_of(3, 4)
    x = layer.centres.detach()[None].clone().requires_grad_()
    layer(x)[0, 0].backward()
    assert all(torch.isfinite(t.grad).all() for t in (x, layer.centres, layer.widths))


def test_bad_input():
    with pytest.raises(ValueError, match="K×C"):
        LearnedBof(torch.zeros(3, 4), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="'l1' or 'l2'"):
        layer_of(3, 4, "l3")
    with pytest.raises(ValueError, match="N×C"):
        LearnedBof.from_kmeans(draw(3, 4), draw(9, 5))
