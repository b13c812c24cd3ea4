"""Explore-exploit graph traversal: a graph walked by hand, and a naive walk that sorts all candidates each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from resight.errors import RecipeError
from resight.search.rerank import Database, ExploreExploit, initial_ranking
from resight.search.rerank.egt import explore_exploit


def walk(start, edges, threshold, count):
    """start: {node: weight}. edges: dense. A list of nodes, by the paper's two steps taken literally."""
    taken, candidates, fresh = [], dict(start), []
    while candidates and len(taken) < count:
        fresh = []
        while candidates and len(taken) < count:
            node = min(candidates, key=lambda n: (-candidates[n], n))
            if fresh and candidates[node] <= threshold:
                break
            del candidates[node]
            taken.append(node)
            fresh.append(node)
        for node in fresh:
            for other in np.flatnonzero(edges[node]).tolist():
                if other not in taken:
                    candidates[other] = max(candidates.get(other, 0), edges[node, other])
    return taken


#       0.9      0.5
#    q ---- 0 ----------- 3      An image's edges lead to the right, and 0 also has one to 1.
#     \      \ 0.4
#      ------ 1 ---- 2
#       0.6     0.8
EDGES = np.zeros((4, 4))
EDGES[0, 3], EDGES[0, 1], EDGES[1, 2] = 0.5, 0.4, 0.8


@pytest.mark.parametrize(
    ("threshold", "order", "weights"),
    [
        (1.0, [0, 1, 2, 3], [0.9, 0.6, 0.8, 0.5]),  # one by one, the heaviest edge at hand
        (0.5, [0, 1, 2, 3], [0.9, 0.6, 0.8, 0.5]),  # 0 and 1 at once, then 2
        (0.0, [0, 1, 2, 3], [0.9, 0.6, 0.8, 0.5]),
    ],
)
def test_a_walk_by_hand(threshold, order, weights):
    nodes, by = explore_exploit(np.array([0, 1]), np.array([0.9, 0.6], np.float32), csr_array(EDGES), threshold)
    assert nodes.tolist() == order
    np.testing.assert_allclose(by, weights, rtol=1e-6)


def test_the_threshold_takes_what_is_at_hand_before_exploring():
    edges = np.zeros((3, 3))
    edges[0, 2] = 0.95
    start = np.array([0, 1]), np.array([0.9, 0.6], np.float32)
    assert explore_exploit(*start, csr_array(edges), 0.7)[0].tolist() == [0, 2, 1]
    assert explore_exploit(*start, csr_array(edges), 0.5)[0].tolist() == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), threshold=st.sampled_from([-1, 2, 4, 6, 99]), count=st.integers(1, 12))
def test_it_is_the_naive_walk(seed, threshold, count):
    rng = np.random.default_rng(seed)
    edges = rng.integers(1, 8, (12, 12)) * (rng.random((12, 12)) < 0.25)  # numbers of inliers, with many ties
    np.fill_diagonal(edges, 0)
    rows = rng.permutation(12)[:3]
    weights = rng.integers(1, 8, 3).astype(np.float32)
    start = dict(zip(rows.tolist(), weights.tolist(), strict=True))
    found, _ = explore_exploit(rows, weights, csr_array(edges.astype(float)), threshold, count)
    assert found.tolist() == walk(start, edges, threshold, count)


def test_ranking_follows_the_walk_with_scores_that_never_rise(draw):
    database, query = Database(np.arange(30), draw(30)), draw(1, seed=3)[0]
    new = ExploreExploit(0.8, k=3).rerank(query, initial_ranking(query, database), database)
    similarity = database.vectors @ database.vectors.T
    edges = np.zeros((30, 30))
    for i in range(30):
        near = [j for j in np.argsort(-similarity[i]) if j != i][:3]
        edges[i, near] = similarity[i, near]
    to_query = database.vectors @ query
    start = {int(j): float(to_query[j]) for j in np.argsort(-to_query)[:3]}
    expected = walk(start, edges, 0.8, 30)
    assert len(expected) > 5
    assert new.ids[: len(expected)].tolist() == expected


def test_values_out_of_range():
    with pytest.raises(RecipeError, match="k must"):
        ExploreExploit(0.5, k=0)
