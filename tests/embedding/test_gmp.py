"""Generalised max pooling: another library's ridge regression, and what follows from the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from resight.embedding.gmp import Gmp, gmp, gmp_weights
from resight.embedding.vlad import Vlad
from resight.errors import RecipeError


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("n", [3, 8, 20])
def test_it_is_ridge_regression_to_ones(n):
    features = draw(n, 8)
    expected = Ridge(alpha=0.3, fit_intercept=False).fit(features, np.ones(n)).coef_
    np.testing.assert_allclose(gmp(features, 0.3), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gmp_weights(features, 0.3) @ features, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [3, 20])
def test_weights_are_those_of_the_regression(n):
    features, weights = draw(n, 8), np.linspace(0, 3, n)
    expected = Ridge(alpha=0.7, fit_intercept=False).fit(features, np.ones(n), sample_weight=weights).coef_
    np.testing.assert_allclose(gmp(features, 0.7, weights), expected, rtol=1e-9, atol=1e-12)


def test_frequent_features_weigh_no_more():
    rare, frequent = np.eye(4)[0], np.eye(4)[1]
    vector = gmp(np.stack([rare] + 50 * [frequent]), 1e-6)
    np.testing.assert_allclose(vector, [1, 1, 0, 0], atol=1e-5)


def test_a_large_ridge_gives_the_direction_of_the_sum():
    features = draw(9, 4)
    np.testing.assert_allclose(1e9 * gmp(features, 1e9), features.sum(axis=0), rtol=1e-6)


def test_no_features_give_zeros():
    np.testing.assert_array_equal(gmp(np.zeros((0, 4))), np.zeros(4))
    assert gmp_weights(np.zeros((0, 4))).shape == (0,)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 12), ridge=st.floats(0.01, 10))
def test_the_order_changes_nothing_and_a_turn_turns_it(seed, n, ridge):
    rng = np.random.default_rng(seed)
    features, turn = rng.normal(size=(n, 5)), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    vector = gmp(features, ridge)
    np.testing.assert_allclose(gmp(features[rng.permutation(n)], ridge), vector, atol=1e-9)
    np.testing.assert_allclose(gmp(features @ turn, ridge), vector @ turn, atol=1e-9)


def test_as_an_embedding():
    embedding = Gmp.fit(draw(10, 6), ridge=0.5, fitted_on="noise")
    assert (embedding.dimension, embedding.input_dimension, embedding.ridge) == (6, 6, 0.5)
    sets = [draw(n, 6, seed=n).astype(np.float32) for n in (4, 30, 0)]
    found = embedding.transform_sets(sets)
    for vector, features in zip(found, sets, strict=True):
        expected = gmp(features, 0.5)
        np.testing.assert_allclose(vector, expected / (np.linalg.norm(expected) or 1), atol=1e-6)
        np.testing.assert_array_equal(embedding.transform(features), vector)
    assert found.dtype == np.float32 and embedding.transform_sets([]).shape == (0, 6)
    counts = [np.arange(4), np.full(30, 2), np.ones(0)]
    many = [np.repeat(x, c.astype(int), axis=0) for x, c in zip(sets, counts, strict=True)]
    np.testing.assert_allclose(embedding.transform_sets(sets, counts), embedding.transform_sets(many), atol=1e-6)


def test_it_is_kept_by_a_file(tmp_path):
    embedding, path = Gmp(6, 0.5, "noise"), tmp_path / "gmp.safetensors"
    fingerprint = embedding.save(path)
    loaded = Gmp.load(path)
    assert (loaded.dimension, loaded.ridge, loaded.fitted_on) == (6, 0.5, "noise")
    assert loaded.fingerprint == fingerprint != Gmp(6, 0.6, "noise").fingerprint
    Vlad.fit(draw(20, 6).astype(np.float32), 2, seed=0, fitted_on="").save(path)
    with pytest.raises(RecipeError, match="where a gmp is needed"):
        Gmp.load(path)


def test_what_does_not_fit():
    for ridge in (0, -1):
        with pytest.raises(ValueError, match="ridge above 0"):
            gmp(draw(3, 4), ridge)
        with pytest.raises(ValueError, match="ridge above 0"):
            gmp_weights(draw(3, 4), ridge)
        with pytest.raises(ValueError, match="ridge is above 0"):
            Gmp(4, ridge, "")
    with pytest.raises(ValueError, match="set 0 must be n×5"):
        Gmp(5, 1.0, "").transform(draw(3, 4).astype(np.float32))
