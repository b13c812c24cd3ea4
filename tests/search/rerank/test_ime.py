"""The manifold layer against scikit-learn and a naive shortest path."""

import numpy as np
import pytest
from sklearn.decomposition import KernelPCA
from sklearn.linear_model import Ridge

from resight.errors import QueryError, RecipeError
from resight.search.rerank import Database, ManifoldLayer, initial_ranking
from resight.search.rerank.ime import kernel_pca, manifold_similarity


def floyd(vectors, k):
    """Shortest paths along the edges to each one's k nearest, in either direction."""
    x = vectors.astype(float)
    distance = np.sqrt(np.maximum(0, ((x[:, None] - x) ** 2).sum(axis=2)))
    path = np.full(distance.shape, np.inf)
    np.fill_diagonal(path, 0)
    for i in range(len(x)):
        for j in [j for j in np.argsort(distance[i]) if j != i][:k]:
            path[i, j] = path[j, i] = distance[i, j]
    for middle in range(len(x)):
        path = np.minimum(path, path[:, middle, None] + path[middle])
    return path, distance


def test_similarities_are_of_geodesic_and_straight_distances(draw):
    x = draw(30)
    path, distance = floyd(x, 1)
    assert np.isinf(path).any()
    expected = 1 / (1 + path**2) + 2 / (1 + distance**2)
    np.testing.assert_allclose(manifold_similarity(x, 1, 2.0), expected, atol=1e-4)


def test_copies_are_connected():
    x = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    np.testing.assert_allclose(manifold_similarity(x, 1, 0.0), np.kron(np.eye(2), np.ones((2, 2))), atol=1e-9)


def test_kernel_pca_is_scikit_learn_s(draw):
    kernel = manifold_similarity(draw(30), 3, 2.0)
    ours, theirs = kernel_pca(kernel, 5), KernelPCA(5, kernel="precomputed").fit_transform(kernel)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-8)


def test_the_layer_is_ridge_regression_on_the_embedding(database):
    layer = ManifoldLayer.fit(database, 8, k=4, weight=1.0, iterations=1, ridge=0.5)
    target = kernel_pca(manifold_similarity(database.vectors, 4, 1.0), 8)
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    np.testing.assert_allclose(layer.representations.vectors, target, atol=1e-5)
    expected = Ridge(0.5, fit_intercept=False).fit(database.vectors.astype(float), target).coef_.T
    np.testing.assert_allclose(layer.matrix, expected, atol=1e-5)


def test_a_second_round_embeds_the_first(database):
    once = ManifoldLayer.fit(database, 8, iterations=1)
    twice = ManifoldLayer.fit(database, 8, iterations=2)
    again = ManifoldLayer.fit(once.representations, 8, iterations=1)
    a, b = twice.representations.vectors, again.representations.vectors
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-4)
    assert np.abs(a @ a.T - once.representations.vectors @ once.representations.vectors.T).max() > 0.01


def test_reranking_is_by_cosine_to_the_mapped_query(database, draw):
    layer, query = ManifoldLayer.fit(database, 8), draw(1, seed=6)[0]
    new = layer.rerank(query, initial_ranking(query, database).top(5), database)
    mapped = query @ layer.matrix
    cosine = layer.representations.vectors @ (mapped / np.linalg.norm(mapped))
    assert new.ids.tolist() == database.ids[np.argsort(-cosine)].tolist()
    np.testing.assert_allclose(new.scores, np.sort(cosine)[::-1], atol=1e-5)


def test_what_does_not_fit(database):
    for wrong in ({"dimensions": 61}, {"dimensions": 0}, {"iterations": 0}, {"ridge": 0.0}, {"weight": -1.0}):
        with pytest.raises(RecipeError):
            ManifoldLayer.fit(database, **{"dimensions": 8, **wrong})
    with pytest.raises(QueryError, match="6 entries"):
        ManifoldLayer.fit(database, 4).transform(np.ones(3, np.float32))
    assert ManifoldLayer.fit(Database(np.arange(4), np.eye(4, dtype=np.float32)), 2).matrix.shape == (4, 2)
