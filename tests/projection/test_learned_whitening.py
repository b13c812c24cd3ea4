"""Learned whitening against cirtorch's formulas and against what it is to do."""

import numpy as np
import pytest

from resight.errors import RecipeError
from resight.projection.covariance import RunningCovariance
from resight.projection.learned_whitening import learned_whitening, learned_whitening_of_pairs


@pytest.fixture
def pairs():
    """(x, queries, positives): 200 objects, each seen twice, with noise that is correlated between entries."""
    rng = np.random.default_rng(8)
    objects = np.repeat(rng.normal(size=(200, 10)), 2, axis=0)
    x = objects + rng.normal(size=(400, 10)) @ rng.normal(size=(10, 10)) * 0.5 + 4
    return x, np.arange(0, 400, 2), np.arange(1, 400, 2)


def fit(x, queries, positives, dimensions=6, **options):
    return learned_whitening_of_pairs(x, queries, positives, dimensions, fitted_on="n", descriptor="d", **options)


def published(x, queries, positives, dimensions):
    """`whitenlearn` of cirtorch/utils/whiten.py in its own steps, columns being vectors: m, P."""
    columns = x.T
    m = columns[:, queries].mean(axis=1, keepdims=True)
    df = columns[:, queries] - columns[:, positives]
    p = np.linalg.inv(np.linalg.cholesky(df @ df.T / df.shape[1]))
    df = p @ (columns - m)
    values, vectors = np.linalg.eig(df @ df.T)
    return m[:, 0], (vectors[:, values.argsort()[::-1]].T @ p)[:dimensions]


@pytest.mark.parametrize("dimensions", [3, 10])
def test_equals_the_published_code_up_to_sign(pairs, dimensions):
    mean, matrix = published(*pairs, dimensions)
    ours = fit(*pairs, dimensions)
    assert (ours.kind, ours.n, ours.dimension) == ("learned-whitening", 400, dimensions)
    np.testing.assert_allclose(ours.mean, mean, rtol=1e-6)
    signs = np.sign((ours.matrix * matrix).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(ours.matrix, matrix * signs, rtol=1e-4, atol=1e-5)
    expected = (pairs[0] - mean) @ matrix.T * signs.T
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(ours.transform(pairs[0]), expected / lengths, atol=1e-5)


def test_differences_of_matching_pairs_become_white_and_the_rest_descends(pairs):
    x, queries, positives = pairs
    out = (x - x[queries].mean(axis=0)) @ fit(*pairs, 10).matrix.astype(float).T
    differences = out[queries] - out[positives]
    np.testing.assert_allclose(differences.T @ differences / 200, np.eye(10), atol=1e-4)
    spread = out.T @ out / 400
    np.testing.assert_allclose(spread, np.diag(np.diag(spread)), atol=1e-3)
    assert (np.diff(np.diag(spread)) < 0).all()


def test_a_stream_gives_what_all_at_once_gives(pairs):
    x, queries, positives = pairs
    vectors, differences = RunningCovariance(), RunningCovariance()
    for rows in np.array_split(np.arange(400), 9):
        vectors.update(x[rows])
    for part in np.array_split(np.arange(200), 4):
        differences.update(x[positives[part]] - x[queries[part]])  # the order within a pair does not matter
    centre = x[queries].mean(axis=0)
    streamed = learned_whitening(vectors, differences, 6, centre=centre, fitted_on="n", descriptor="d")
    np.testing.assert_allclose(streamed.matrix, fit(*pairs).matrix, rtol=1e-4, atol=1e-6)
    about_mean = learned_whitening(vectors, differences, 6, fitted_on="n", descriptor="d")
    np.testing.assert_allclose(about_mean.mean, x.mean(axis=0), rtol=1e-6)
    assert fit(*pairs).fingerprint == fit(*pairs).fingerprint


def test_it_brings_matching_images_together(pairs):
    """What is learned on one half finds the pairs of the other half better than plain cosine does."""
    x, queries, positives = pairs
    half = fit(x, queries[:100], positives[:100], 10)

    def found(vectors):
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return (np.argmax(vectors[queries[100:]] @ vectors[positives[100:]].T, axis=1) == np.arange(100)).mean()

    assert found(half.transform(x)) > found(x - x.mean(axis=0)) + 0.1


def test_too_few_or_flat_pairs_are_refused_unless_there_is_a_ridge(pairs):
    x, queries, positives = pairs
    with pytest.raises(RecipeError, match=r"9 matching pairs do not span all 10 dimensions.*ridge above 0"):
        fit(x, queries[:9], positives[:9])
    x[:, 4] = 1.0
    with pytest.raises(RecipeError, match="do not span"):
        fit(x, queries, positives)
    ridged = fit(x, queries, positives, ridge=0.01).matrix.astype(float)
    d = x[queries] - x[positives]
    within = d.T @ d / 200
    within += 0.01 * np.trace(within) / 10 * np.eye(10)
    np.testing.assert_allclose(ridged @ within @ ridged.T, np.eye(6), atol=1e-4)


def test_what_does_not_fit(pairs):
    x, queries, positives = pairs
    with pytest.raises(RecipeError, match="has only 10"):
        fit(x, queries, positives, 11)
    with pytest.raises(ValueError, match="as many queries as positives"):
        fit(x, queries, positives[1:])
    with pytest.raises(ValueError, match="as many queries as positives"):
        fit(x, [], [])
    for wrong in (-1, 400):
        with pytest.raises(ValueError, match="from 0 to 399"):
            fit(x, [0], [wrong])
    vectors = RunningCovariance()
    vectors.update(x)
    with pytest.raises(RecipeError, match="needs differences"):
        learned_whitening(vectors, RunningCovariance(), 6, fitted_on="", descriptor="")
