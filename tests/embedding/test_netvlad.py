"""NetVLAD against VLAD and against a loop over its equations; at its start and with published weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.embedding.netvlad import NetVlad  # noqa: E402
from resight.errors import RecipeError  # noqa: E402


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def draw(*shape, seed=0):
    return unit(np.random.default_rng(seed).normal(size=shape))


def naive_vlad(features, centroids):
    """Hard assignment, intra-normalisation (Arandjelović & Zisserman, CVPR 2013), ℓ2."""
    vlad = np.zeros(centroids.shape)
    for x in features:
        k = min(range(len(centroids)), key=lambda k: ((x - centroids[k]) ** 2).sum())
        vlad[k] += x - centroids[k]
    for row in vlad:
        if row.any():
            row /= np.sqrt((row**2).sum())
    return vlad.ravel() / np.sqrt((vlad**2).sum())


def naive_netvlad(features, layer):
    weight, bias = layer.conv.weight.detach().numpy()[:, :, 0, 0], layer.conv.bias.detach().numpy()
    centroids = layer.centroids.detach().numpy()
    vlad = np.zeros(centroids.shape)
    for x in features:
        x = x / np.sqrt((x**2).sum())
        scores = np.exp([w @ x + b for w, b in zip(weight, bias, strict=True)])
        for k, centroid in enumerate(centroids):
            vlad[k] += scores[k] / scores.sum() * (x - centroid)
    vlad = unit(vlad).ravel()
    return vlad / np.sqrt((vlad**2).sum())


@pytest.mark.parametrize("normalise", [True, False])
def test_with_a_large_alpha_it_is_vlad(normalise):
    centroids, features = 0.9 * draw(6, 8, seed=1), draw(40, 8)
    layer = NetVlad.from_kmeans(centroids, features, alpha=1e7, normalise=normalise).double()
    features = features if normalise else 3 * features
    out = layer(torch.as_tensor(features * (5 if normalise else 1))[None])[0].detach().numpy()
    np.testing.assert_allclose(out, naive_vlad(features, centroids.astype(np.float32)), atol=1e-5)


def test_a_cluster_without_features_stays_zero():
    centroids = np.concatenate([draw(3, 8, seed=1), -draw(1, 8)])
    out = NetVlad.from_kmeans(centroids, draw(1, 8), alpha=1e7)(torch.as_tensor(draw(1, 8)[None]).float())
    assert torch.count_nonzero(out) == 8


def test_soft_assignment_by_a_loop():
    torch.manual_seed(0)
    layer = NetVlad(5, 7).double()
    features = 2 * draw(30, 7)
    np.testing.assert_allclose(
        layer(torch.as_tensor(features)[None])[0].detach().numpy(), naive_netvlad(features, layer), atol=1e-12
    )
    assert layer.dimension == 35


@pytest.mark.parametrize("bias", [True, False])
def test_it_starts_with_the_second_choice_at_a_hundredth_of_the_first(bias):
    centroids, features = draw(6, 8, seed=1), draw(500, 8)
    layer = NetVlad.from_kmeans(centroids, features, bias=bias)
    scores = np.einsum("kc,nc->nk", layer.conv.weight.detach().numpy()[:, :, 0, 0], features)
    scores += layer.conv.bias.detach().numpy() if bias else 0
    nearest = ((features[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(scores.argmax(axis=1), nearest)
    ordered = np.sort(scores, axis=1)
    assert np.mean(ordered[:, -2] - ordered[:, -1]) == pytest.approx(np.log(0.01), rel=1e-4)
    np.testing.assert_array_equal(layer.centroids.detach().numpy(), centroids.astype(np.float32))


def test_centroids_of_unequal_length_need_the_bias():
    centroids, features = draw(6, 8, seed=1) * np.arange(1, 7)[:, None] / 6, draw(500, 8)
    layer = NetVlad.from_kmeans(centroids, features)
    scores = features @ layer.conv.weight.detach().numpy()[:, :, 0, 0].T + layer.conv.bias.detach().numpy()
    np.testing.assert_array_equal(
        scores.argmax(axis=1), ((features[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "pool."])
def test_the_parameters_of_pytorch_netvlad(bias, prefix):
    torch.manual_seed(0)
    shapes = {"centroids": (4, 6), "conv.weight": (4, 6, 1, 1)} | ({"conv.bias": (4,)} if bias else {})
    state = {prefix + name: torch.randn(shape) for name, shape in shapes.items()}
    layer = NetVlad.from_state(state)
    x = torch.nn.functional.normalize(torch.randn(1, 9, 6), dim=2)
    # As their forward() has it: a convolution, a softmax, residuals one by one.
    weight, bias_ = state[prefix + "conv.weight"], state.get(prefix + "conv.bias")
    soft = torch.nn.functional.conv2d(x.mT[..., None], weight, bias_).flatten(2).softmax(dim=1)
    residuals = x[:, None] - state[prefix + "centroids"][None, :, None]
    vlad = torch.nn.functional.normalize((soft[..., None] * residuals).sum(dim=2), dim=2).flatten(1)
    torch.testing.assert_close(layer(x), torch.nn.functional.normalize(vlad, dim=1))


def test_other_weights_are_refused():
    with pytest.raises(RecipeError, match=r"needs `centroids`.*\['conv.weight'\]"):
        NetVlad.from_state({"conv.weight": torch.zeros(4, 6, 1, 1)})
    with pytest.raises(RecipeError, match="not a NetVLAD head"):
        NetVlad.from_state({"centroids": torch.zeros(4, 6)})
    with pytest.raises(RecipeError, match="not a NetVLAD head"):
        NetVlad.from_state({"centroids": torch.zeros(4, 6), "conv.weight": torch.zeros(4, 5, 1, 1)})


def test_bad_input():
    with pytest.raises(ValueError, match="K×C and features N×C"):
        NetVlad.from_kmeans(draw(4, 6), draw(9, 5))
    with pytest.raises(ValueError, match="distinct centroids"):
        NetVlad.from_kmeans(np.ones((2, 6)), draw(9, 6))
    with pytest.raises(ValueError, match="two centroids"):
        NetVlad.from_kmeans(draw(1, 6), draw(9, 6))
