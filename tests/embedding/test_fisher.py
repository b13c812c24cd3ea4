"""Mixtures against scikit-learn's, Fisher vectors against scikit-image's and against numerical gradients."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm
from skimage.feature import fisher_vector
from sklearn.mixture import GaussianMixture

from resight.embedding.embedding import Embedding
from resight.embedding.fisher import Fisher
from resight.embedding.gmm import Gmm, _step
from resight.errors import RecipeError


def draw(n: int, dimension: int = 4, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    """Features in three heaps of different spreads."""
    rng = np.random.default_rng(seed)
    heap = rng.integers(0, 3, n)
    x = rng.normal(size=(n, dimension)) * np.array([0.5, 1.0, 2.0])[heap, None] + 4 * heap[:, None] + offset
    return x.astype(np.float32)


def mixture(offset: float = 0.0) -> Gmm:
    rng = np.random.default_rng(3)
    means = rng.normal(scale=3, size=(5, 4)) + offset
    weights = rng.dirichlet(np.full(5, 3.0))
    values = (weights, means, rng.uniform(0.5, 3, (5, 4)))
    return Gmm(*(a.astype(np.float32) for a in values), fitted_on="drawn")


def sklearn_of(gmm: Gmm) -> GaussianMixture:
    theirs = GaussianMixture(len(gmm.weights), covariance_type="diag")
    theirs.weights_, theirs.means_ = gmm.weights.astype(float), gmm.means.astype(float)
    theirs.covariances_ = gmm.variances.astype(float)
    theirs.precisions_cholesky_ = 1 / np.sqrt(theirs.covariances_)
    return theirs


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_posteriors_are_scikit_learns(offset):
    gmm, x = mixture(offset), draw(300, offset=offset)
    np.testing.assert_allclose(gmm.posteriors(x), sklearn_of(gmm).predict_proba(x.astype(float)), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_steps_of_the_fit_are_scikit_learns():
    x = draw(2000)
    parameters = [np.full(5, 0.2), x[:5].astype(float), np.full((5, 4), 9.0)]
    origin = np.full(4, 2.5)
    weights, means, variances = parameters[0], parameters[1] - origin, parameters[2]
    for _ in range(4):
        weights, means, variances = _step(x, origin, weights, means, variances)
    theirs = GaussianMixture(
        5,
        covariance_type="diag",
        weights_init=parameters[0],
        means_init=parameters[1],
        precisions_init=1 / parameters[2],
        max_iter=4,
        tol=0,
        reg_covar=0,
    ).fit(x.astype(float))
    np.testing.assert_allclose(weights, theirs.weights_, atol=1e-6)
    np.testing.assert_allclose(means + origin, theirs.means_, atol=1e-5)
    np.testing.assert_allclose(variances, theirs.covariances_, rtol=1e-5)


def test_the_fit_is_as_likely_as_scikit_learns_and_repeatable():
    x = draw(3000)
    gmm = Gmm.fit(x, 3, seed=0, fitted_on="heaps")
    best = GaussianMixture(3, covariance_type="diag", random_state=0, n_init=3).fit(x.astype(float))
    assert sklearn_of(gmm).score(x.astype(float)) > best.score(x.astype(float)) - 1e-3
    np.testing.assert_array_equal(gmm.means, Gmm.fit(x, 3, seed=0, fitted_on="heaps").means)
    assert gmm.weights.sum() == pytest.approx(1, abs=1e-6) and gmm.fitted_on == "heaps"


def test_a_constant_dimension_and_far_heaps_leave_a_usable_mixture():
    x = np.concatenate([np.zeros((50, 3)), np.full((1, 3), 1e3), draw(100, 3)]).astype(np.float32)
    x[:, 1] = 7
    fisher = Fisher(Gmm.fit(x, 6, seed=0, fitted_on="-"))
    assert np.isfinite(fisher.transform(x)).all()


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_it_is_scikit_images_but_for_the_sign_of_its_last_part(power, offset):
    gmm, x = mixture(offset), draw(60, offset=offset)
    theirs = fisher_vector(x.astype(float), sklearn_of(gmm), improved=True, alpha=power)
    theirs[-20:] *= -1  # scikit-image's gradient by variance points downhill
    np.testing.assert_allclose(Fisher(gmm, power, by_weight=True).transform(x), theirs, atol=1e-5)
    without = theirs[5:] / np.linalg.norm(theirs[5:])
    np.testing.assert_allclose(Fisher(gmm, power).transform(x), without, atol=1e-5)


def naive(gmm: Gmm, x: np.ndarray) -> np.ndarray:
    """The definition in float64, one feature and one component at a time."""
    weights, means, sigmas = gmm.weights.astype(float), gmm.means.astype(float), np.sqrt(gmm.variances.astype(float))
    by_weight, by_mean, by_deviation = np.zeros(len(weights)), np.zeros(means.shape), np.zeros(means.shape)
    for feature in x.astype(float):
        logs = np.log(weights) + norm.logpdf(feature, means, sigmas).sum(axis=1)
        for k, gamma in enumerate(np.exp(logs - logsumexp(logs))):
            u = (feature - means[k]) / sigmas[k]
            by_weight[k] += (gamma - weights[k]) / np.sqrt(weights[k])
            by_mean[k] += gamma * u / np.sqrt(weights[k])
            by_deviation[k] += gamma * (u**2 - 1) / np.sqrt(2 * weights[k])
    vector = np.concatenate([by_weight, by_mean.ravel(), by_deviation.ravel()])
    vector = np.sign(vector) * np.sqrt(np.abs(vector))
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("n", [1, 60, 5000])
@pytest.mark.parametrize(
    ("heaps", "apart", "crowded"),
    [
        pytest.param(4, 0.5, True, id="all-compete"),
        pytest.param(4, 30.0, True, id="distant-crowds"),
        pytest.param(32, 2.0, False, id="few-compete"),
        pytest.param(32, 100.0, False, id="distant-pairs"),
        pytest.param(32, 1e5, False, id="beyond-float32"),
    ],
)
def test_it_is_within_1e_4_of_float64_however_the_components_lie(heaps, apart, crowded, n):
    rng = np.random.default_rng(0)
    means = (apart * rng.normal(size=(heaps, 16)))[np.arange(64) % heaps] + 0.5 * rng.normal(size=(64, 16))
    values = (rng.dirichlet(np.full(64, 3.0)), means, rng.uniform(0.5, 2, (64, 16)))
    gmm = Gmm(*(a.astype(np.float32) for a in values), fitted_on="drawn")
    x = (gmm.means[rng.integers(0, 64, n)] + rng.normal(size=(n, 16))).astype(np.float32)
    theirs = sklearn_of(gmm)
    shares = theirs.predict_proba(theirs.means_)
    assert ((shares > 1e-10 * shares.max(axis=1, keepdims=True)).mean() > 0.05) == crowded
    expected = fisher_vector(x.astype(float), theirs, improved=True)
    expected[-means.size :] *= -1
    vector = Fisher(gmm, by_weight=True).transform(x)
    assert np.linalg.norm(vector - expected) < 1e-4
    if n <= 60:
        assert np.linalg.norm(vector - naive(gmm, x)) < 1e-4


def test_it_points_up_the_likelihood():
    """g_μ √w / σ and g_σ √2w / σ are ∂/∂μ and ∂/∂σ of the mean log-likelihood, here taken numerically."""
    gmm, x = mixture(), draw(40).astype(float)
    weights, means, sigmas = gmm.weights.astype(float), gmm.means.astype(float), np.sqrt(gmm.variances.astype(float))

    def likelihood(means, sigmas):
        densities = norm.pdf(x[:, None], means, sigmas).prod(axis=2)
        return np.log(densities @ weights).mean()

    expected = np.empty((2, 5, 4))
    for place in np.ndindex(5, 4):
        step = np.zeros((5, 4))
        step[place] = 1e-5
        expected[0][place] = likelihood(means + step, sigmas) - likelihood(means - step, sigmas)
        expected[1][place] = likelihood(means, sigmas + step) - likelihood(means, sigmas - step)
    expected *= sigmas / np.sqrt(weights)[:, None]
    expected[1] /= np.sqrt(2)
    expected = expected.ravel() / np.linalg.norm(expected)
    np.testing.assert_allclose(Fisher(gmm, power=1.0).transform(x.astype(np.float32)), expected, atol=1e-5)


def test_sets_are_as_one_by_one_and_order_and_repetition_do_not_matter():
    fisher: Embedding = Fisher(mixture())
    sets = [draw(50), draw(1, seed=1), np.empty((0, 4), np.float32), draw(7, seed=2)]
    vectors = fisher.transform_sets(sets)
    np.testing.assert_allclose(vectors, [fisher.transform(features) for features in sets], atol=1e-6)
    assert vectors.shape == (4, fisher.dimension) == (4, 40) and vectors.dtype == np.float32
    assert not vectors[2].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[[0, 1, 3]], axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(fisher.transform(np.repeat(sets[0][::-1], 2, axis=0)), vectors[0], atol=1e-6)


def test_it_survives_the_disk(tmp_path):
    fisher, path = Fisher(mixture(), 0.4, by_weight=True), tmp_path / "f.safetensors"
    assert fisher.save(path) == fisher.fingerprint != Fisher(mixture(), 0.4).fingerprint
    loaded = Fisher.load(path)
    assert (loaded.fingerprint, loaded.fitted_on, loaded.dimension) == (fisher.fingerprint, "drawn", 45)
    np.testing.assert_array_equal(loaded.transform(draw(9)), fisher.transform(draw(9)))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RecipeError, match=r"f\.safetensors"):
        Fisher.load(path)


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="give more images"):
        Gmm.fit(draw(3), 4, seed=0, fitted_on="-")
    with pytest.raises(RecipeError, match="equal"):
        Gmm.fit(np.ones((30, 4), np.float32), 2, seed=0, fitted_on="-")
    with pytest.raises(ValueError, match="finite"):
        Gmm.fit(np.full((30, 4), np.inf, np.float32), 2, seed=0, fitted_on="-")
    with pytest.raises(ValueError, match="set 0 must be n×4"):
        Fisher(mixture()).transform(draw(3, 5))
    with pytest.raises(ValueError, match="must be n×4"):
        Fisher(mixture()).transform(np.empty((0, 5), np.float32))
    with pytest.raises(ValueError, match="too far"):
        Fisher(mixture()).transform(np.full((2, 4), 1e20, np.float32))
    with pytest.raises(ValueError, match="power"):
        Fisher(mixture(), power=2)
    with pytest.raises(ValueError, match="above 0"):
        Gmm(np.array([1, 0], np.float32), np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32), "-")
