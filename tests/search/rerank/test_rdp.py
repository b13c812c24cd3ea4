"""The regularised diffusion process against the Kronecker product of its definition."""

import numpy as np
import pytest
from scipy.sparse import csr_array, eye_array

from resight.errors import QueryError, RecipeError
from resight.search.rerank import Database, RegularisedDiffusion, initial_ranking
from resight.search.rerank.diffusion import normalised
from resight.search.rerank.neighbours import mutual_graph
from resight.search.rerank.rdp import regularised_diffusion, regularised_diffusion_of


def limit(s, e, alpha):
    n = len(s)
    system = np.eye(n * n) - alpha * np.kron(s, s)
    return (1 - alpha) * np.linalg.solve(system, e.ravel()).reshape(n, n)


def test_iteration_meets_the_tensor_product_graph():
    rng = np.random.default_rng(0)
    s = rng.normal(size=(9, 9))
    s /= np.linalg.norm(s, 2)
    e = rng.random((9, 9))
    np.testing.assert_allclose(regularised_diffusion(s, e, 0.8, 1e-12), limit(s, e, 0.8), atol=1e-9)
    sparse = regularised_diffusion(csr_array(s), None, 0.8, 1e-12)
    np.testing.assert_allclose(sparse, limit(s, np.eye(9), 0.8), atol=1e-9)
    np.testing.assert_allclose(regularised_diffusion(s, e, 0.0), e)


def test_one_query_is_a_row_of_all(draw):
    s = normalised(csr_array(mutual_graph(draw(20), 4, 3.0) + eye_array(20)))
    everything = limit(s.toarray(), np.eye(20), 0.85)
    for node in (0, 13):
        found = regularised_diffusion_of(s, node, 0.85, 1e-12, 500)
        np.testing.assert_allclose(found, everything[node], atol=1e-10)


def test_reranking_is_by_the_query_s_row(draw):
    vectors = draw(25)
    query = vectors[4] + 0.3 * vectors[9]
    query /= np.linalg.norm(query)
    database = Database(np.arange(25), vectors)
    new = RegularisedDiffusion(k=6, gamma=2.0).rerank(query, initial_ranking(query, database), database)
    s = normalised(csr_array(mutual_graph(np.concatenate([query[None], vectors]), 6, 2.0) + eye_array(26)))
    expected = limit(s.toarray(), np.eye(26), 1 / 1.18)[0, 1:]
    reached = np.count_nonzero(expected > 1e-9)
    assert reached > 3
    assert new.ids[:reached].tolist() == np.argsort(-expected, kind="stable")[:reached].tolist()


def test_a_lone_pair_finds_each_other():
    x = np.array([[0.96, 0.28, 0], [0, 0, 1]], np.float32)
    query = np.array([1, 0, 0], np.float32)
    database = Database(np.array([2, 1]), x)
    new = RegularisedDiffusion(k=1).rerank(query, initial_ranking(query, database), database)
    assert new.ids.tolist() == [2, 1]
    # S = [[a, 1 − a], [1 − a, a]] of the pair, with 1/(1 + w) = a, has the eigenvalues 1 and 2a − 1.
    a, alpha = 1 / (1 + 0.96**3), 1 / 1.18
    expected = (1 - alpha) / 2 * (1 / (1 - alpha) - 1 / (1 - alpha * (2 * a - 1) ** 2))
    assert new.scores[0] == pytest.approx(expected, rel=1e-5)


def test_what_does_not_converge():
    with pytest.raises(QueryError, match="transition"):
        regularised_diffusion(2 * np.eye(3), alpha=0.5)
    with pytest.raises(RecipeError, match="alpha"):
        regularised_diffusion(np.eye(3), alpha=1.0)
