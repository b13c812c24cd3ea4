"""k-reciprocal encoding against loops over the paper's definition."""

import math

import numpy as np
import pytest

from resight.errors import RecipeError
from resight.search.rerank import KReciprocal, initial_ranking
from resight.search.rerank.reciprocal import k_reciprocal_distances


def naive(query, vectors, k1, k2, weight):
    x = np.concatenate([query[None], vectors]).astype(float)
    n = len(x)

    def d(p, g):
        return max(0.0, 2 - 2 * float(x[p] @ x[g]))

    def near(p, k):  # N(p, k), with p itself
        return [p, *sorted((g for g in range(n) if g != p), key=lambda g: d(p, g))[:k]]

    def reciprocal(p, k):
        return {g for g in near(p, k) if p in near(g, k)}

    def expanded(p):
        core = reciprocal(p, k1)
        members = set(core)
        for q in core:
            candidate = reciprocal(q, k1 // 2)
            if len(core & candidate) >= 2 / 3 * len(candidate):
                members |= candidate
        return members

    first = [{g: math.exp(-d(p, g)) for g in expanded(p)} for p in range(n)]
    averaged = []
    for p in range(n):
        group = near(p, k2 - 1)
        averaged.append([sum(first[i].get(g, 0.0) for i in group) / len(group) for g in range(n)])
    distances = []
    for g in range(1, n):
        pairs = list(zip(averaged[0], averaged[g], strict=True))
        jaccard = 1 - sum(map(min, pairs)) / sum(map(max, pairs))
        distances.append((1 - weight) * jaccard + weight * d(0, g))
    return distances


@pytest.mark.parametrize(("k1", "k2", "weight"), [(6, 3, 0.3), (9, 1, 0.0), (4, 4, 1.0), (20, 6, 0.3)])
def test_distances_are_those_of_the_definition(draw, k1, k2, weight):
    query, vectors = draw(1, seed=5)[0], draw(35)
    found = k_reciprocal_distances(query, vectors, k1, k2, weight)
    np.testing.assert_allclose(found, naive(query, vectors, k1, k2, weight), atol=2e-5)


def test_some_sets_are_expanded_and_some_are_not(draw):
    """Else the loops above would not tell whether the condition of two thirds is there."""
    query, vectors = draw(1, seed=5)[0], draw(35)
    x = np.concatenate([query[None], vectors])
    lists = [[i, *[int(j) for j in np.argsort(-(x @ x[i])) if j != i]] for i in range(36)]

    def reciprocal(i, k):
        return {j for j in lists[i][: k + 1] if i in lists[j][: k + 1]}

    verdicts = {
        3 * len(reciprocal(p, 6) & reciprocal(q, 3)) >= 2 * len(reciprocal(q, 3))
        for p in range(36)
        for q in reciprocal(p, 6)
        if reciprocal(q, 3) - reciprocal(p, 6)
    }
    assert verdicts == {True, False}


def test_reranking_is_by_the_distance(database):
    query = database.vectors[3]
    ranking = initial_ranking(query, database)
    new = KReciprocal(depth=30, k1=6, k2=3).rerank(query, ranking, database)
    expected = naive(query, database.vectors[database.rows(ranking.ids[:30])], 6, 3, 0.3)
    assert new.ids[:30].tolist() == ranking.ids[:30][np.argsort(expected, kind="stable")].tolist()
    np.testing.assert_allclose(new.scores[:30], -np.sort(expected), atol=2e-5)


@pytest.mark.parametrize("wrong", [{"k1": 0}, {"k2": 0}, {"k1": 3, "k2": 5}, {"weight": 1.5}])
def test_values_out_of_range(draw, wrong):
    with pytest.raises(RecipeError, match="k1"):
        k_reciprocal_distances(draw(1)[0], draw(5), **wrong)
