"""PCA-whitening against scikit-learn and its definition, streamed, and saved with its provenance."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.artefact import save_artefact
from resight.errors import RecipeError
from resight.projection.whitening import PcaWhitening, RunningCovariance


@pytest.fixture
def data():
    rng = np.random.default_rng(5)
    return rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12) * 3


def fit(x, dimensions, ridge=0.0):
    return PcaWhitening.fit(np.array_split(x, 7), dimensions, fitted_on="noise", descriptor="d", ridge=ridge)


def unnormalised(whitening, x):
    return (x - whitening.mean) @ whitening.projection.T


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.floats(0, 1e6))
def test_covariance_of_a_stream(sizes, offset):
    x = np.random.default_rng(sum(sizes)).normal(size=(sum(sizes) + 2, 4)) + offset
    moments = RunningCovariance()
    for batch in np.split(x, np.cumsum(sizes)):
        moments.update(batch)
    assert moments.n == len(x)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), atol=1e-8)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), atol=1e-7)


def test_equals_scikit_learn_up_to_sign(data):
    sklearn = pytest.importorskip("sklearn.decomposition")
    oracle = sklearn.PCA(n_components=5, whiten=True, svd_solver="full").fit_transform(data)
    ours = unnormalised(fit(data, 5), data)
    signs = np.sign((ours * oracle).sum(axis=0))
    np.testing.assert_allclose(ours, oracle * signs, atol=1e-4)
    lengths = np.linalg.norm(oracle, axis=1, keepdims=True)
    np.testing.assert_allclose(fit(data, 5).transform(data), oracle * signs / lengths, atol=1e-5)


def test_what_it_was_fitted_on_becomes_white(data):
    white = unnormalised(fit(data, 12), data)
    np.testing.assert_allclose(np.cov(white.T), np.eye(12), atol=1e-4)


def test_sign_is_fixed_by_the_largest_entry(data):
    projection = fit(data, 6).projection
    largest = np.abs(projection).argmax(axis=1)
    assert (projection[np.arange(6), largest] > 0).all()


def test_ridge_keeps_flat_axes_from_blowing_up(data):
    data[:, 3:] *= 1e-9
    lengths = np.linalg.norm(fit(data, 12, ridge=0.1).projection, axis=1)
    floor = 0.1 * np.trace(np.cov(data.T)) / 12
    np.testing.assert_allclose(lengths[-1], 1 / np.sqrt(floor), rtol=1e-3)
    variances = np.sort(np.linalg.eigvalsh(np.cov(data.T)))[::-1]
    np.testing.assert_allclose(lengths, 1 / np.sqrt(variances + floor), rtol=1e-3)


def test_result_is_normalised_float32_and_takes_one_vector(data):
    whitening = fit(data, 4)
    out = whitening.transform(data)
    assert out.dtype == np.float32 and out.shape == (300, 4)
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(whitening.transform(data[0]), out[0], atol=1e-6)
    np.testing.assert_array_equal(whitening.transform(whitening.mean), np.zeros(4))


def test_too_little_to_learn_from(data):
    with pytest.raises(RecipeError, match=r"more than 12 photos.*here are 12.*lower `dimensions`"):
        fit(data[:12], 12)
    with pytest.raises(RecipeError, match="has only 12"):
        fit(data, 13)
    with pytest.raises(RecipeError, match="here are 0"):
        PcaWhitening.fit([], 2, fitted_on="", descriptor="")


def test_bad_vectors(data):
    with pytest.raises(ValueError, match="finite"):
        fit(np.where(data > 8, np.nan, data), 4)
    with pytest.raises(ValueError, match="12 entries"):
        fit(data, 4).transform(np.zeros((2, 11)))
    with pytest.raises(ValueError, match="at least two"):
        _ = RunningCovariance().covariance


def test_save_and_load(data, tmp_path):
    whitening = fit(data, 4)
    fingerprint = whitening.save(tmp_path / "w.safetensors")
    loaded = PcaWhitening.load(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(loaded.transform(data), whitening.transform(data))
    assert (loaded.n, loaded.fitted_on, loaded.descriptor, loaded.dimension) == (300, "noise", "d", 4)
    assert loaded.fingerprint == whitening.fingerprint == fingerprint
    assert fit(data[:200], 4).fingerprint != fingerprint


def test_artefacts_that_are_no_whitening(tmp_path):
    path = tmp_path / "w.safetensors"
    save_artefact(path, "pca-whitening", {"mean": np.zeros(3, np.float32)}, {})
    with pytest.raises(RecipeError, match=r"w\.safetensors: not a whitening"):
        PcaWhitening.load(path)
    wrong = {"mean": np.zeros(3, np.float32), "projection": np.zeros((2, 4), np.float32)}
    save_artefact(path, "pca-whitening", wrong, {"n": 3, "fitted_on": "", "descriptor": ""})
    with pytest.raises(RecipeError, match="K×D"):
        PcaWhitening.load(path)


def test_needs_no_torch():
    code = "import sys, resight.projection.whitening; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
