"""Query expansion and database-side augmentation against loops over their definitions."""

import numpy as np
import pytest

from resight.errors import QueryError, RecipeError
from resight.search.ranking import Evidence, Ranking
from resight.search.rerank import Database, QueryExpansion, VerifiedExpansion, augmented, initial_ranking
from resight.search.rerank.expansion import alpha_qe, aqe, dba, verified_qe


def expanded(query, members, weights):
    total = [float(v) for v in query]
    for member, weight in zip(members, weights, strict=True):
        total = [t + weight * float(m) for t, m in zip(total, member, strict=True)]
    return np.array(total) / sum(t * t for t in total) ** 0.5


def test_aqe_averages():
    x = np.array([[0.6, 0.8], [0, 1], [-1, 0]], np.float32)
    query = np.array([1, 0], np.float32)
    np.testing.assert_allclose(aqe(query, x, np.array([0, 1])), np.array([1.6, 1.8]) / np.hypot(1.6, 1.8), atol=1e-6)


def test_alpha_qe_weighs_by_similarity_and_leaves_negatives_out(draw):
    x, query = draw(12, seed=2), draw(1, seed=9)[0]
    top = np.arange(12)
    similarity = [float(query @ v) for v in x]
    assert min(similarity) < 0 < max(similarity)
    expected = expanded(query, x, [max(s, 0.0) ** 3 for s in similarity])
    np.testing.assert_allclose(alpha_qe(query, x, top), expected, atol=1e-5)
    np.testing.assert_allclose(alpha_qe(query, x, top, 0.0), aqe(query, x, top), atol=1e-6)


def test_several_queries_at_once(draw):
    x, queries = draw(20), draw(3, seed=1)
    top = np.array([[0, 5], [7, 2], [3, 3]])
    together = alpha_qe(queries, x, top)
    for query, rows, found in zip(queries, top, together, strict=True):
        np.testing.assert_allclose(found, alpha_qe(query, x, rows), atol=1e-6)


def test_verified_qe_takes_masks_and_weights(draw):
    x, query = draw(4), draw(1, seed=1)[0]
    top = np.array([2, 0, 3])
    mask = np.array([True, False, True])
    np.testing.assert_allclose(verified_qe(query, x, top, mask), aqe(query, x, np.array([2, 3])), atol=1e-6)
    weights = [0.5, 2.0, 0.0]
    np.testing.assert_allclose(verified_qe(query, x, top, weights), expanded(query, x[top], weights), atol=1e-6)
    for wrong in ([1.0, 2.0], [1.0, -1.0, 0.0], [np.nan, 0, 0]):
        with pytest.raises(QueryError, match="weights"):
            verified_qe(query, x, top, wrong)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_dba_expands_each_vector_by_its_neighbours(draw, alpha, monkeypatch):
    monkeypatch.setattr("resight.search.rerank.expansion._BLOCK", 7)
    x = draw(25)
    for i, found in enumerate(dba(x, 3, alpha)):
        close = sorted((j for j in range(25) if j != i), key=lambda j: -float(x[i] @ x[j]))[:3]
        weights = [max(float(x[i] @ x[j]), 0.0) ** alpha for j in close]
        np.testing.assert_allclose(found, expanded(x[i], x[close], weights), atol=1e-5)


def test_expansion_ranks_the_whole_database(database):
    query = database.vectors[3]
    ranking = initial_ranking(query, database).top(6)
    new = QueryExpansion(k=4, alpha=2.0).rerank(query, ranking, database)
    rows = database.rows(ranking.ids[:4])
    target = expanded(query, database.vectors[rows], [max(float(query @ database.vectors[r]), 0) ** 2 for r in rows])
    expected = sorted(range(60), key=lambda r: -float(database.vectors[r] @ target))
    assert new.ids.tolist() == database.ids[expected].tolist()


def test_an_augmented_database_is_searched_like_any(database):
    better, query = augmented(database, 3), database.vectors[3]
    ranking = QueryExpansion(k=0).rerank(query, initial_ranking(query, database), better)
    assert ranking.ids.tolist() == initial_ranking(query, better).ids.tolist()
    assert ranking.ids.tolist() != initial_ranking(query, database).ids.tolist()


def test_only_confirmed_results_expand():
    x = np.array([[0.8, 0.6, 0], [0.6, 0.8, 0], [0.6, 0, 0.8], [0, 0, 1]], np.float32)
    database, query = Database(np.arange(4), x), np.array([1, 0, 0], np.float32)
    none = np.empty((0, 2), np.float32)
    inliers = [5, 30, 20, None]
    known = tuple(None if n is None else Evidence(n, n, None, None, None, none, none) for n in inliers)
    ranking = Ranking(np.arange(4), np.array([4, 3, 2, 1], np.float32), known, 0.0, True)
    for k, members in ((50, [1, 2]), (1, [1])):
        new = VerifiedExpansion(k=k, inliers=20).rerank(query, ranking, database)
        np.testing.assert_allclose(
            new.scores, sorted(x @ expanded(query, x[members], [1.0] * len(members)), reverse=True), atol=1e-6
        )


def test_values_out_of_range(draw):
    for make in (lambda: QueryExpansion(k=-1), lambda: QueryExpansion(alpha=-1), lambda: VerifiedExpansion(k=0)):
        with pytest.raises(RecipeError):
            make()
    with pytest.raises(RecipeError, match="alpha"):
        alpha_qe(draw(1)[0], draw(3), np.array([0]), -1.0)
