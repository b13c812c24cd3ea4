"""Neighbours and graphs against sorting every row."""

import numpy as np
import pytest

from resight.errors import RecipeError
from resight.search.rerank.neighbours import affinity, knn, knn_graph, mutual, mutual_graph, nearest


def naive(vectors, i, k):
    others = [j for j in range(len(vectors)) if j != i]
    return sorted(others, key=lambda j: (-float(vectors[i] @ vectors[j]), j))[:k]


def test_neighbours_are_those_of_a_full_sort(draw):
    x = draw(40)
    rows, similarity = knn(x, 7)
    assert rows.tolist() == [naive(x, i, 7) for i in range(40)]
    np.testing.assert_allclose(similarity, [[x[i] @ x[j] for j in naive(x, i, 7)] for i in range(40)], atol=1e-6)


def test_blocks_do_not_show(draw, monkeypatch):
    x = draw(40)
    expected = knn(x, 5)
    monkeypatch.setattr("resight.search.rerank.neighbours._BLOCK", 7)
    np.testing.assert_array_equal(knn(x, 5)[0], expected[0])


def test_more_neighbours_than_there_are():
    rows, similarity = knn(np.eye(3, dtype=np.float32), 9)
    assert rows.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert not similarity.any()
    assert nearest(np.ones((2, 3), np.float32), np.empty((0, 3), np.float32), 4)[0].shape == (2, 0)
    assert knn(np.ones((1, 1), np.float32), 2)[0].shape == (1, 0)


def test_copies_do_not_make_a_node_its_own_neighbour():
    x = np.tile(np.array([[0.6, 0.8]], np.float32), (30, 1))
    rows, _ = knn(x, 4)
    assert not np.any(rows == np.arange(30)[:, None])
    assert all(len(set(row)) == 4 for row in rows.tolist())


def test_a_mutual_graph_has_the_edges_of_both_directions(draw):
    x, k = draw(40), 5
    lists = [naive(x, i, k) for i in range(40)]
    expected = np.zeros((40, 40))
    for i in range(40):
        for j in lists[i]:
            if i in lists[j] and x[i] @ x[j] > 0:
                expected[i, j] = float(x[i] @ x[j]) ** 3
    found = mutual_graph(x, k, 3.0)
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-5)
    assert np.count_nonzero(expected) == found.nnz
    assert (found != found.T).nnz == 0
    assert 0 < found.nnz < mutual(affinity(knn_graph(x, 20), 1.0)).nnz


def test_edges_of_negative_similarity_are_dropped():
    x = np.array([[1, 0], [-1, 0], [-0.6, 0.8]], np.float32)
    found = affinity(knn_graph(x, 2), 2.0)
    assert found.nnz == 2
    np.testing.assert_allclose(found.toarray(), [[0, 0, 0], [0, 0, 0.36], [0, 0.36, 0]], atol=1e-6)


def test_values_out_of_range(draw):
    with pytest.raises(RecipeError, match="k must"):
        knn(draw(3), 0)
    with pytest.raises(RecipeError, match="gamma"):
        mutual_graph(draw(3), 1, 0.0)
