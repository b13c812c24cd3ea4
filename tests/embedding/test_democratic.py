"""Democratic weights against their defining equality, a closed form and a loop over the published algorithm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.embedding.democratic import aggregate, democratic_weights, power_normalise


def positive_features(n=30, dimension=12, seed=0):
    x = np.abs(np.random.default_rng(seed).normal(size=(n, dimension)))
    x[: n // 2] = x[0] + 0.05 * x[: n // 2]  # a burst: half of the set looks alike
    return x


def contributions(x, weights):
    return weights * (x @ (weights @ x))


def test_every_feature_contributes_as_much_to_the_self_similarity():
    x = positive_features()
    np.testing.assert_allclose(contributions(x, democratic_weights(x @ x.T, iterations=200)), 1, atol=1e-9)
    # Ten iterations, as published, are near it; plain sums are not.
    np.testing.assert_allclose(contributions(x, democratic_weights(x @ x.T)), 1, atol=0.01)
    assert np.ptp(contributions(x, np.ones(len(x)))) > 5


def test_copies_share_the_weight_of_one():
    # m copies of a direction that no other has: λ² m = 1.
    x = np.repeat(np.eye(4), [1, 2, 5, 9], axis=0)
    expected = np.repeat([1, 2, 5, 9], [1, 2, 5, 9]) ** -0.5
    np.testing.assert_allclose(democratic_weights(x @ x.T), expected)
    np.testing.assert_allclose(aggregate(x, "democratic"), np.sqrt([1, 2, 5, 9]))
    np.testing.assert_allclose(aggregate(x, "sum"), [1, 2, 5, 9])


def test_the_published_algorithm_step_by_step():
    x = np.random.default_rng(1).normal(size=(8, 5))
    gram = [[max(0.0, float(a @ b)) for b in x] for a in x]
    weights = [1.0] * 8
    for _ in range(10):
        rows = [weights[i] * sum(gram[i][j] * weights[j] for j in range(8)) for i in range(8)]
        weights = [w / r**0.5 for w, r in zip(weights, rows, strict=True)]
    np.testing.assert_allclose(democratic_weights(x @ x.T), weights)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_order_does_not_matter(n, seed):
    rng = np.random.default_rng(seed)
    x, order = rng.normal(size=(n, 4)), rng.permutation(n)
    np.testing.assert_allclose(democratic_weights((x @ x.T)[order][:, order]), democratic_weights(x @ x.T)[order])
    np.testing.assert_allclose(aggregate(x[order], "democratic"), aggregate(x, "democratic"), atol=1e-12)


def test_a_zero_vector_has_no_weight_and_no_features_give_zeros():
    x = np.array([[1.0, 0], [0, 0], [0, 2]])
    np.testing.assert_array_equal(democratic_weights(x @ x.T), [1, 0, 0.5])
    for method in ("sum", "democratic"):
        np.testing.assert_array_equal(aggregate(np.empty((0, 3)), method), np.zeros(3))


@pytest.mark.parametrize("gram", [np.ones((2, 3)), np.ones(3), np.array([[np.nan]])])
def test_what_is_no_gram_matrix_is_refused(gram):
    with pytest.raises(ValueError, match="n×n and finite"):
        democratic_weights(gram)


def test_power_law_by_hand():
    out = power_normalise(np.array([[9.0, -16.0], [0.0, 0.0]]), 0.5)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[0.6, -0.8], [0, 0]], rtol=1e-6)
