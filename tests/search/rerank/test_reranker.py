"""Rankings, how they are put together, and what holds for every re-ranking method."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.errors import QueryError
from resight.search.ranking import Evidence, Ranking
from resight.search.rerank import (
    Database,
    Diffusion,
    ExploreExploit,
    KReciprocal,
    QueryExpansion,
    RegionalDiffusion,
    RegularisedDiffusion,
    SuperGlobal,
    VerifiedExpansion,
    compose,
    initial_ranking,
)
from resight.search.rerank.reranker import best, first

METHODS = [
    QueryExpansion(k=5),
    VerifiedExpansion(k=3, inliers=4),
    KReciprocal(depth=20, k1=5, k2=3),
    Diffusion(depth=20, k=5, sources=3),
    RegionalDiffusion(depth=20, diffusion=Diffusion(k=5, sources=3)),
    RegularisedDiffusion(depth=20, k=5),
    ExploreExploit(0.7, depth=20, k=4),
    SuperGlobal(depth=20, k=3),
]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def evidence(inliers: int) -> Evidence:
    nothing = np.empty((0, 2), np.float32)
    return Evidence(inliers, inliers, None, None, None, nothing, nothing)


def verified(ranking: Ranking) -> Ranking:
    """The same with evidence for the first ten, of which every other has inliers enough."""
    known = tuple(evidence(9 * (i % 2)) if i < 10 else None for i in range(len(ranking)))
    return Ranking(ranking.ids, ranking.scores, known, 0.5, calibrated=True)


def test_initial_ranking_is_by_cosine_with_ties_by_id():
    x = np.eye(3, dtype=np.float32)
    ranking = initial_ranking(x[0], Database(np.array([9, 4, 7, 2]), x[[1, 2, 0, 1]]))
    assert ranking.ids.tolist() == [7, 2, 4, 9]
    assert ranking.scores.tolist() == [1, 0, 0, 0]


def test_first_puts_images_first_and_lowers_the_others():
    ranking = Ranking(np.array([5, 3, 8]), np.array([0.9, 0.8, -0.5], np.float32), (None, evidence(1), None), 0.2, True)
    new = first(ranking, np.array([8, 1]), np.array([0.6, 0.4], np.float32))
    assert new.ids.tolist() == [8, 1, 5, 3]
    np.testing.assert_allclose(new.scores, [0.6, 0.4, 0.4, 0.4])
    assert new.evidence == (None, None, None, ranking.evidence[1])
    assert not new.calibrated
    assert new.accepted == 4


def test_ties_are_of_what_is_told_in_float32():
    ids, _ = best(np.array([2, 1]), np.array([0.5 + 1e-12, 0.5]))
    assert ids.tolist() == [1, 2]


@each_method
def test_a_ranking_keeps_its_images_and_evidence(method, database):
    query = database.vectors[7]
    ranking = verified(initial_ranking(query, database))
    new = method.rerank(query, ranking, database)
    assert sorted(new.ids) == sorted(database.ids)
    held = dict(zip(ranking.ids, ranking.evidence, strict=True))
    assert [held[i] for i in new.ids] == list(new.evidence)
    assert not new.calibrated


@pytest.mark.parametrize("method", [m for m in METHODS if hasattr(m, "depth")], ids=lambda m: type(m).__name__)
def test_images_behind_the_depth_keep_their_order(method, database):
    query = database.vectors[7]
    ranking = initial_ranking(query, database)
    new = method.rerank(query, ranking, database)
    assert sorted(new.ids[:20]) == sorted(ranking.ids[:20])
    assert new.ids[20:].tolist() == ranking.ids[20:].tolist()


@each_method
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_the_database_does_not_matter(method, draw, seed):
    rng = np.random.default_rng(seed)
    vectors, ids, query = draw(30, seed=seed), rng.permutation(1000)[:30], draw(1, seed=seed + 1)[0]
    straight = Database(ids, vectors)
    order = rng.permutation(30)
    mixed = Database(ids[order], vectors[order])
    a, b = (method.rerank(query, verified(initial_ranking(query, d)), d) for d in (straight, mixed))
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


@each_method
@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_images_or_none(method, draw, n):
    small = Database(np.arange(n), draw(n))
    query = draw(1, seed=3)[0]
    assert len(method.rerank(query, initial_ranking(query, small), small)) == n


@each_method
def test_a_query_that_does_not_fit(method, database):
    ranking = initial_ranking(database.vectors[0], database)
    with pytest.raises(QueryError, match=r"query .*6 entries"):
        method.rerank(database.vectors[0, :4], ranking, database)
    with pytest.raises(QueryError, match="query must be ℓ2-normalised"):
        method.rerank(2 * database.vectors[0], ranking, database)


def test_methods_compose_from_left_to_right(database):
    query = database.vectors[7]
    ranking = initial_ranking(query, database)
    a, b = QueryExpansion(k=5), KReciprocal(depth=10, k1=4, k2=2)
    expected = b.rerank(query, a.rerank(query, ranking, database), database)
    chained = compose(a, b).rerank(query, ranking, database)
    np.testing.assert_array_equal(chained.ids, expected.ids)
    reverse = compose(b, a).rerank(query, ranking, database)
    assert reverse.ids.tolist() != expected.ids.tolist()
    assert compose().rerank(query, ranking, database) is ranking


def test_the_manifold_is_followed_where_cosine_leaves_it(arcs):
    database, query = arcs
    ranking = initial_ranking(query, database)
    own = np.arange(40)
    assert set(ranking.ids[:40]) != set(own)
    methods = (
        Diffusion(k=4, sources=2, iterations=200),
        RegularisedDiffusion(k=4, alpha=0.99),
        ExploreExploit(0.99, k=4),
    )
    for method in methods:
        assert set(method.rerank(query, ranking, database).ids[:40]) == set(own), method


@pytest.mark.parametrize(
    ("ids", "vectors", "says"),
    [
        (np.arange(2, dtype=np.int32), np.eye(2, dtype=np.float32), "int64"),
        (np.arange(2), np.eye(2), "float32"),
        (np.arange(3), np.eye(2, dtype=np.float32), "N ids"),
        (np.arange(2), 3 * np.eye(2, dtype=np.float32), "normalised"),
        (np.arange(1), np.full((1, 2), np.nan, np.float32), "normalised"),
    ],
)
def test_a_database_is_checked(ids, vectors, says):
    with pytest.raises(QueryError, match=says):
        Database(ids, vectors)


def test_an_image_without_a_vector_is_named(database):
    query = database.vectors[0]
    strange = first(initial_ranking(query, database), np.array([12345]), np.array([2.0], np.float32))
    for method in METHODS:
        if not isinstance(method, VerifiedExpansion | RegionalDiffusion):
            with pytest.raises(QueryError, match="12345"):
                method.rerank(query, strange, database)


def test_an_image_with_several_vectors_needs_regional_diffusion(draw):
    regions = Database(np.array([1, 1, 2]), draw(3))
    with pytest.raises(QueryError, match="twice"):
        regions.rows(np.array([1]))


def test_torch_is_not_imported():
    program = "import sys, resight.search.rerank; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
