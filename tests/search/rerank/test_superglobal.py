"""SuperGlobal's re-ranking against loops over its three steps."""

import numpy as np
import pytest

from resight.errors import RecipeError
from resight.search.rerank import SuperGlobal, initial_ranking
from resight.search.rerank.superglobal import refine, super_global


def naive(query, vectors, k, beta):
    x = vectors.astype(float)
    refined = []
    for i in range(len(x)):
        total, mass = x[i].copy(), 1.0
        for j in sorted((j for j in range(len(x)) if j != i), key=lambda j, i=i: -float(x[i] @ x[j]))[:k]:
            weight = beta * float(x[i] @ x[j])
            total += weight * x[j]
            mass += weight
        refined.append(total / mass)
    one = [float(r @ query) for r in refined]
    top = sorted(range(len(x)), key=lambda i: -one[i])[: k + 1]
    expanded = [max(refined[i][d] for i in top) for d in range(x.shape[1])]
    return refined, [(s + float(r @ expanded)) / 2 for s, r in zip(one, refined, strict=True)]


@pytest.mark.parametrize(("k", "beta"), [(9, 0.15), (3, 1.0), (50, 0.15)])
def test_scores_are_those_of_the_steps(draw, k, beta):
    query, vectors = draw(1, seed=4)[0], draw(30)
    refined, expected = naive(query, vectors, k, beta)
    np.testing.assert_allclose(refine(vectors, k, beta), refined, atol=1e-5)
    np.testing.assert_allclose(super_global(query, vectors, k, beta), expected, atol=1e-5)


def test_without_neighbours_weight_a_refined_vector_is_itself(draw):
    np.testing.assert_allclose(refine(draw(10), 3, 0.0), draw(10))


def test_reranking_is_by_the_score(database):
    query = database.vectors[3]
    ranking = initial_ranking(query, database)
    new = SuperGlobal(depth=25, k=4).rerank(query, ranking, database)
    _, expected = naive(query, database.vectors[database.rows(ranking.ids[:25])], 4, 0.15)
    assert new.ids[:25].tolist() == ranking.ids[:25][np.argsort(-np.array(expected), kind="stable")].tolist()


def test_values_out_of_range(draw):
    for k, beta in ((0, 0.15), (3, -1.0)):
        with pytest.raises(RecipeError, match="beta"):
            super_global(draw(1)[0], draw(5), k, beta)
