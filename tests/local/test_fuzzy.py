"""Fuzzy objects against scikit-learn's orthogonal matching pursuit and the products they stand for."""

import numpy as np
import pytest
from sklearn.linear_model import orthogonal_mp

from resight.errors import QueryError
from resight.local.fuzzy import FuzzyObjects, sparse_codes


def directions(count: int, dimension: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def proposals(things: int, each: int, noise: float, seed: int = 0, dimension: int = 64) -> np.ndarray:
    """Overlapping proposals on a few things, by thing."""
    rng = np.random.default_rng(seed)
    points = np.repeat(directions(things, dimension, seed), each, axis=0)
    points = points + rng.normal(size=points.shape).astype(np.float32) * noise / dimension**0.5
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def dense(found: FuzzyObjects) -> np.ndarray:
    codes = np.zeros((len(found.chosen), len(found.objects)))
    for n, (chosen, weights) in enumerate(zip(found.chosen, found.weights, strict=True)):
        for t, weight in zip(chosen, weights, strict=True):
            codes[n, t] += weight
    return codes


@pytest.mark.parametrize("sparsity", [1, 3, 6])
def test_codes_are_those_of_orthogonal_matching_pursuit(sparsity):
    vectors, objects = directions(30, 12, 0), directions(8, 12, 1)
    chosen, weights = sparse_codes(vectors, objects, sparsity)
    assert chosen.shape == weights.shape == (30, sparsity)
    expected = orthogonal_mp(objects.T.astype(float), vectors.T.astype(float), n_nonzero_coefs=sparsity).T
    np.testing.assert_allclose(dense(FuzzyObjects(objects, chosen, weights)), expected, atol=1e-5)


def test_repeated_objects_and_vectors_that_are_objects_are_coded_exactly():
    objects = np.repeat(directions(3, 8, 0), 2, axis=0)
    found = FuzzyObjects(objects, *sparse_codes(objects, objects, 4))
    np.testing.assert_allclose(dense(found) @ objects, objects, atol=1e-5)


def test_scores_are_products_with_the_approximated_proposals():
    points, queries = proposals(5, 20, 0.5), directions(3, 64, 9)
    found = FuzzyObjects.of(points, 8, sparsity=2, seed=1)
    assert found.objects.shape == (8, 64) and found.chosen.shape == (100, 2)
    np.testing.assert_allclose(np.linalg.norm(found.objects, axis=1), 1, atol=1e-5)
    scores = found.scores(queries)
    np.testing.assert_allclose(scores, queries @ (dense(found) @ found.objects).T, atol=1e-5)
    assert found.similarity(queries) == pytest.approx(scores.max(axis=1).mean(), abs=1e-6)


def test_a_few_objects_stand_for_many_proposals():
    points = proposals(10, 30, 0.6)
    found = FuzzyObjects.of(points, 20, sparsity=3)
    # The thing itself as the one object would explain 1/(1 + 0.6²) of a proposal's squared length.
    assert np.mean((dense(found) @ found.objects * points).sum(axis=1)) > 1 / 1.36
    for thing in range(10):  # the proposal found lies on the thing asked for
        query = directions(10, 64, 0)[thing : thing + 1]
        assert found.scores(query)[0].argmax() // 30 == thing
        assert found.similarity(query) == pytest.approx(float((points @ query[0]).max()), abs=0.15)


def test_as_many_objects_as_proposals_lose_nothing():
    points = directions(7, 16, 0)
    found = FuzzyObjects.of(points, 300, sparsity=1)
    np.testing.assert_allclose(dense(found) @ found.objects, points, atol=1e-6)
    assert len(FuzzyObjects.of(points[:1], 3).objects) == 1


def test_the_same_seed_gives_the_same_objects():
    points = proposals(5, 20, 1.0)
    one, two = (FuzzyObjects.of(points, 6, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.objects, two.objects)
    np.testing.assert_array_equal(one.chosen, two.chosen)


def test_refinement_averages_the_nearest_of_the_collection():
    found, others = FuzzyObjects.of(proposals(4, 10, 0.5), 4), directions(30, 64, 3)
    collection = np.concatenate([others, found.objects])
    refined = found.refined(collection, 3)
    for own, new in zip(found.objects, refined.objects, strict=True):
        nearest = sorted(range(len(collection)), key=lambda m: -float(collection[m] @ own))[:3]
        total = sum(collection[m] for m in nearest)
        np.testing.assert_allclose(new, total / np.linalg.norm(total), atol=1e-5)
    np.testing.assert_allclose(found.refined(collection, 1).objects, found.objects, atol=1e-6)
    np.testing.assert_array_equal(refined.chosen, found.chosen)


def test_what_does_not_fit_is_refused():
    points = directions(5, 4, 0)
    for arguments in ((points[:0], 3), (points[0], 3), (points, 0)):
        with pytest.raises(QueryError):
            FuzzyObjects.of(*arguments)
    with pytest.raises(QueryError, match="sparsity"):
        FuzzyObjects.of(points, 3, sparsity=0)
    for neighbours in (0, 6):
        with pytest.raises(QueryError, match="neighbours"):
            FuzzyObjects.of(points, 3).refined(points, neighbours)
