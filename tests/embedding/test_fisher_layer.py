"""The Fisher layer against scikit-image, a loop over its equations and autograd of the likelihood."""

import numpy as np
import pytest
from skimage.feature import fisher_vector, learn_gmm

torch = pytest.importorskip("torch")

from resight.embedding.fisher_layer import FisherLayer  # noqa: E402


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def mixture(k, c):
    weights = np.random.default_rng(1).uniform(1, 3, k)
    return weights / weights.sum(), draw(k, c, seed=2), np.random.default_rng(3).uniform(0.3, 2, (k, c))


def layer_of(k, c):
    return FisherLayer.from_gmm(*mixture(k, c)).double()


def improved(vector):
    rooted = np.array([np.sign(v) * np.sqrt(abs(v)) for v in vector])
    return rooted / np.sqrt((rooted**2).sum())


def naive_fisher(features, weights, means, variances):
    by_mean, by_sigma = np.zeros(means.shape), np.zeros(means.shape)
    for x in features:
        density = [
            w * np.prod(np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v))
            for w, m, v in zip(weights, means, variances, strict=True)
        ]
        for k, posterior in enumerate(np.array(density) / sum(density)):
            z = (x - means[k]) / np.sqrt(variances[k])
            by_mean[k] += posterior * z / np.sqrt(weights[k])
            by_sigma[k] += posterior * (z**2 - 1) / np.sqrt(2 * weights[k])
    return improved(np.concatenate([by_mean.ravel(), by_sigma.ravel()]) / len(features))


def test_by_a_loop():
    features, layer = draw(30, 4), layer_of(3, 4)
    out = layer(torch.as_tensor(features)[None])[0].detach().numpy()
    np.testing.assert_allclose(out, naive_fisher(features, *mixture(3, 4)), atol=1e-5)
    assert layer.dimension == len(out) == 24


def test_scikit_image_agrees():
    """It puts gradients by the weights first, which we leave out, and has those by the variances with other sign."""
    gmm = learn_gmm(
        [draw(200, 5), draw(200, 5, seed=1) + 2], n_modes=3, gm_args={"random_state": 0, "covariance_type": "diag"}
    )
    features = draw(60, 5, seed=2) + 1
    expected = fisher_vector(features, gmm)[3:]
    expected[15:] *= -1
    layer = FisherLayer.from_gmm(gmm.weights_, gmm.means_, gmm.covariances_)
    out = layer(torch.as_tensor(features).float()[None])[0].detach().numpy()
    np.testing.assert_allclose(out, improved(expected), atol=2e-4)


def test_it_is_the_scaled_gradient_of_the_likelihood():
    weights, means, variances = mixture(3, 4)
    x = torch.as_tensor(draw(30, 4))
    mu, sigma = torch.as_tensor(means).requires_grad_(), torch.as_tensor(variances**0.5).requires_grad_()
    components = torch.distributions.Independent(torch.distributions.Normal(mu, sigma), 1)
    family = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.as_tensor(weights)), components
    )
    by_mu, by_sigma = torch.autograd.grad(family.log_prob(x).mean(), (mu, sigma))
    root = torch.as_tensor(weights).sqrt()[:, None]
    expected = torch.cat([(by_mu * sigma / root).flatten(), (by_sigma * sigma / root / 2**0.5).flatten()])
    out = layer_of(3, 4)(x[None])[0].detach().numpy()
    np.testing.assert_allclose(out, improved(expected.detach().numpy()), atol=1e-5)


def test_entries_of_zero_have_finite_gradients():
    layer = FisherLayer.from_gmm(np.ones(1), np.zeros((1, 2)), np.ones((1, 2)))
    x = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], requires_grad=True)  # of the mean and variance of the mixture
    out = layer(x)
    torch.testing.assert_close(out, torch.zeros(1, 4))
    out[0, 0].backward()
    assert all(torch.isfinite(t.grad).all() for t in (x, *layer.parameters()))


def test_bad_input():
    with pytest.raises(ValueError, match="K×C"):
        FisherLayer(torch.zeros(3), torch.zeros(3, 4), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="above 0"):
        FisherLayer.from_gmm(np.array([1.0, 0.0]), np.zeros((2, 3)), np.ones((2, 3)))
