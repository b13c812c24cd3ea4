"""Diffusion against dense linear algebra."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from resight.errors import RecipeError
from resight.search.rerank import Diffusion, initial_ranking
from resight.search.rerank.diffusion import closed_form, conjugate_gradient, diffuse, normalised, sources
from resight.search.rerank.neighbours import mutual_graph


def dense_transitions(vectors, k, gamma):
    """S, by loops over sorted rows."""
    n = len(vectors)
    similarity = vectors.astype(float) @ vectors.T.astype(float)
    lists = [sorted((j for j in range(n) if j != i), key=lambda j, i=i: -similarity[i, j])[:k] for i in range(n)]
    w = np.zeros((n, n))
    for i in range(n):
        for j in lists[i]:
            if i in lists[j]:
                w[i, j] = max(similarity[i, j], 0) ** gamma
    degree = w.sum(axis=1)
    s = np.zeros((n, n))
    for i, j in zip(*np.nonzero(w), strict=True):
        s[i, j] = w[i, j] / (degree[i] * degree[j]) ** 0.5
    return s


def dense_diffusion(query, vectors, *, k, count, gamma, alpha):
    y = np.zeros(len(vectors))
    for vector in np.atleast_2d(query):
        similarity = vectors.astype(float) @ vector
        for i in np.argsort(-similarity)[:count]:
            y[i] += max(similarity[i], 0) ** gamma
    return np.linalg.solve(np.eye(len(vectors)) - alpha * dense_transitions(vectors, k, gamma), y)


def test_normalised_graph(draw):
    x = draw(40)
    found = normalised(mutual_graph(x, 5, 3.0)).toarray()
    np.testing.assert_allclose(found, dense_transitions(x, 5, 3.0), atol=1e-5)
    assert np.abs(np.linalg.eigvalsh(found)).max() <= 1 + 1e-9


def test_a_node_without_edges_stays_by_itself():
    s = normalised(csr_array(np.array([[0, 2.0, 0], [2.0, 0, 0], [0, 0, 0]])))
    np.testing.assert_allclose(s.toarray(), [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    # 1/(1 − α²) of itself and α times that of the other, for α = 1/2.
    np.testing.assert_allclose(closed_form(s, np.array([3.0, 0, 1]), 0.5), [4, 2, 1])


def test_sources_of_several_vectors_add_up(draw):
    x, query = draw(20), draw(3, seed=1)
    expected = sum(sources(q, x, 4, 2.0) for q in query)
    np.testing.assert_allclose(sources(query, x, 4, 2.0), expected, atol=1e-9)
    similarity = x @ query[0]
    top = np.argsort(-similarity)[:4]
    one = np.zeros(20)
    one[top] = np.maximum(similarity[top], 0) ** 2
    np.testing.assert_allclose(sources(query[0], x, 4, 2.0), one, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
def test_both_solvers_solve(draw, alpha):
    s = normalised(mutual_graph(draw(40), 6, 3.0))
    for y in (np.random.default_rng(1).random(40), np.random.default_rng(1).random((40, 3))):
        expected = np.linalg.solve(np.eye(40) - alpha * s.toarray(), y)
        np.testing.assert_allclose(closed_form(s, y, alpha), expected, rtol=1e-9)
        np.testing.assert_allclose(diffuse(s, y, alpha, 1e-12, 500), expected, rtol=1e-8)


def test_conjugate_gradient_stops_at_the_tolerance_or_the_limit(draw):
    s = normalised(mutual_graph(draw(40), 6, 3.0)).toarray()
    a, calls = np.eye(40) - 0.99 * s, []
    b = np.stack([np.ones(40), np.zeros(40), np.arange(40.0)])

    def multiply(p):
        calls.append(None)
        return p @ a

    x = conjugate_gradient(multiply, b, 1e-4, 500)
    residual = np.linalg.norm(b - x @ a, axis=1)
    assert np.all(residual <= 1.01e-4 * np.linalg.norm(b, axis=1))
    assert len(calls) < 60
    calls.clear()
    conjugate_gradient(multiply, b, 1e-12, 3)
    assert len(calls) == 3


def test_reranking_is_the_dense_solution(database):
    query = database.vectors[11]
    method = Diffusion(depth=40, k=6, sources=3, gamma=2.0, alpha=0.9, tolerance=1e-12, iterations=300)
    ranking = initial_ranking(query, database)
    new = method.rerank(query, ranking, database)
    rows = database.rows(ranking.ids[:40])
    expected = dense_diffusion(query, database.vectors[rows], k=6, count=3, gamma=2.0, alpha=0.9)
    reached = np.count_nonzero(expected > 1e-12)
    assert 5 < reached <= 40
    order = np.lexsort((ranking.ids[:40], -expected))[:reached]
    assert new.ids[:reached].tolist() == ranking.ids[:40][order].tolist()
    np.testing.assert_allclose(new.scores[:reached], expected[order], rtol=1e-4)


def test_values_out_of_range(database):
    query = database.vectors[0]
    for wrong in ({"depth": 0}, {"k": 0}, {"sources": 0}, {"gamma": 0.0}, {"alpha": 1.0}):
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            Diffusion(**wrong).rerank(query, initial_ranking(query, database), database)
    for alpha in (1.0, -0.1, np.nan):
        with pytest.raises(RecipeError, match="alpha"):
            diffuse(csr_array(np.eye(2)), np.ones(2), alpha)
