"""PCA and PCA-whitening against scikit-learn, faiss and their definitions."""

import faiss
import numpy as np
import pytest

from resight.errors import RecipeError
from resight.projection.moments import gather
from resight.projection.pca import pca, pca_whitening


@pytest.fixture
def data():
    rng = np.random.default_rng(5)
    return rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12) * 3


def fit(x, dimensions, method=pca_whitening, **options):
    options = ({"ridge": 0.0} if method is pca_whitening else {}) | options
    return method(gather(np.array_split(x, 7), dimensions), dimensions, fitted_on="noise", descriptor="d", **options)


def unnormalised(projection, x):
    return (x - projection.mean) @ projection.matrix.T


@pytest.mark.parametrize(("method", "whiten"), [(pca, False), (pca_whitening, True)])
def test_equals_scikit_learn_up_to_sign(data, method, whiten):
    sklearn = pytest.importorskip("sklearn.decomposition")
    oracle = sklearn.PCA(n_components=5, whiten=whiten, svd_solver="full").fit_transform(data)
    learned = fit(data, 5, method)
    ours = unnormalised(learned, data)
    signs = np.sign((ours * oracle).sum(axis=0))
    np.testing.assert_allclose(ours, oracle * signs, atol=1e-4)
    lengths = np.linalg.norm(oracle, axis=1, keepdims=True)
    np.testing.assert_allclose(learned.transform(data), oracle * signs / lengths, atol=1e-5)


@pytest.mark.parametrize(("method", "power"), [(pca, 0), (pca_whitening, -0.5)])
def test_equals_faiss_up_to_sign(data, method, power):
    theirs = faiss.PCAMatrix(12, 5, power)
    theirs.train(data.astype(np.float32))
    oracle = theirs.apply(data.astype(np.float32))
    if power:
        oracle *= np.sqrt(len(data) - 1)  # its eigenvalues are of the scatter, which it does not divide
    ours = unnormalised(fit(data, 5, method), data)
    np.testing.assert_allclose(ours, oracle * np.sign((ours * oracle).sum(axis=0)), atol=1e-3)


def test_pca_of_all_axes_only_rotates(data):
    learned = fit(data, 12, pca)
    np.testing.assert_allclose(learned.matrix @ learned.matrix.T, np.eye(12), atol=1e-6)
    centred = data - data.mean(axis=0)
    rotated = unnormalised(learned, data)
    np.testing.assert_allclose(rotated @ rotated.T, centred @ centred.T, atol=1e-3)


def test_what_it_was_fitted_on_becomes_white(data):
    white = unnormalised(fit(data, 12), data)
    np.testing.assert_allclose(np.cov(white.T), np.eye(12), atol=1e-4)


@pytest.mark.parametrize("method", [pca, pca_whitening])
def test_sign_is_fixed_by_the_largest_entry(data, method):
    matrix = fit(data, 6, method).matrix
    largest = np.abs(matrix).argmax(axis=1)
    assert (matrix[np.arange(6), largest] > 0).all()


def test_the_order_of_the_stream_and_its_batches_do_not_matter(data):
    one, other = fit(data, 6), pca_whitening(gather([data[::-1]], 6), 6, fitted_on="", descriptor="", ridge=0.0)
    np.testing.assert_allclose(one.matrix, other.matrix, atol=1e-5)
    assert fit(data, 6).fingerprint == one.fingerprint


def test_ridge_keeps_flat_axes_from_blowing_up(data):
    data[:, 3:] *= 1e-9
    lengths = np.linalg.norm(fit(data, 12, ridge=0.1).matrix, axis=1)
    floor = 0.1 * np.trace(np.cov(data.T)) / 12
    np.testing.assert_allclose(lengths[-1], 1 / np.sqrt(floor), rtol=1e-3)
    variances = np.sort(np.linalg.eigvalsh(np.cov(data.T)))[::-1]
    np.testing.assert_allclose(lengths, 1 / np.sqrt(variances + floor), rtol=1e-3)


def test_an_axis_without_variance_is_not_divided_by(data):
    data[:, 0] = 2.0
    with pytest.raises(RecipeError, match="fewer than 12 axes"):
        fit(data, 12)
    assert np.isfinite(fit(data, 12, ridge=0.1).matrix).all()
    assert fit(data, 11).dimension == fit(data, 11, pca).dimension == 11


@pytest.mark.parametrize("method", [pca, pca_whitening])
def test_too_little_to_learn_from(data, method):
    with pytest.raises(RecipeError, match=r"more than 12 photos.*here are 12.*lower `dimensions`"):
        fit(data[:12], 12, method)
    with pytest.raises(RecipeError, match="has only 12"):
        fit(data, 13, method)
