"""Metrics against naive loops typed from their definitions, hand-worked numbers and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from resight.errors import ResightError
from resight.evaluation.metrics import (
    AVERAGE_PRECISIONS,
    average_precision,
    first_rank,
    ns_score,
    positive_ranks,
    precision_at,
    recall_at,
    revisited_precision_at,
)


def naive_trapezoidal(relevance, positives):
    """Oxford Buildings: trapezoids between successive points of the precision-recall curve."""
    area, old_recall, old_precision, found = 0.0, 0.0, 1.0, 0
    for seen, relevant in enumerate(relevance, start=1):
        found += relevant
        recall, precision = found / positives, found / seen
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def naive_rectangular(relevance, positives):
    total = 0.0
    for k in range(1, len(relevance) + 1):
        if relevance[k - 1]:
            total += sum(relevance[:k]) / k
    return total / positives


def naive_truncated(relevance, positives):
    total = 0.0
    for k in range(1, min(100, len(relevance)) + 1):
        if relevance[k - 1]:
            total += sum(relevance[:k]) / k
    return total / min(positives, 100)


def ranks_of(relevance):
    return np.flatnonzero(np.array(relevance, bool))


@st.composite
def judged_lists(draw, max_size=300):
    relevance = draw(st.lists(st.booleans(), min_size=1, max_size=max_size))
    unretrieved = draw(st.integers(0, 5)) + (sum(relevance) == 0)
    return relevance, sum(relevance) + unretrieved


@settings(max_examples=50)
@given(judged_lists())
@pytest.mark.parametrize(
    ("kind", "naive"),
    [("trapezoidal", naive_trapezoidal), ("rectangular", naive_rectangular), ("truncated", naive_truncated)],
)
def test_average_precision_is_its_definition(kind, naive, judged):
    relevance, positives = judged
    expected = naive([int(r) for r in relevance], positives)
    assert average_precision(ranks_of(relevance), positives, kind) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=60).filter(any))
def test_rectangular_is_scikit_learns_without_ties(relevance):
    scores = -np.arange(len(relevance), dtype=float)
    expected = average_precision_score(relevance, scores)
    assert average_precision(ranks_of(relevance), sum(relevance), "rectangular") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "ranks", "positives", "expected"),
    [
        ("trapezoidal", [0, 2], 2, (1 + (1 / 2 + 2 / 3) / 2) / 2),
        ("trapezoidal", [1], 1, (0 + 1 / 2) / 2),
        ("trapezoidal", [0, 1, 5], 4, (1 + 1 + (2 / 5 + 3 / 6) / 2) / 4),
        ("rectangular", [0, 2], 2, (1 + 2 / 3) / 2),
        ("rectangular", [1], 1, 1 / 2),
        ("rectangular", [0, 1, 5], 4, (1 + 1 + 3 / 6) / 4),
        ("truncated", [0, 99, 100], 3, (1 + 2 / 100) / 3),
        ("truncated", list(range(100)), 250, 1.0),
        ("truncated", [], 7, 0.0),
    ],
)
def test_average_precision_worked_by_hand(kind, ranks, positives, expected):
    assert average_precision(np.array(ranks, np.int64), positives, kind) == pytest.approx(expected)


@pytest.mark.parametrize("kind", AVERAGE_PRECISIONS)
@settings(max_examples=30)
@given(n=st.integers(1, 150), tail=st.integers(0, 50))
def test_a_perfect_ranking_scores_one_whatever_follows(kind, n, tail):
    relevance = [True] * n + [False] * tail
    assert average_precision(ranks_of(relevance), n, kind) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", AVERAGE_PRECISIONS)
@settings(max_examples=30)
@given(data=st.data())
def test_the_order_of_the_wrong_ones_does_not_matter(kind, data):
    n = data.draw(st.integers(2, 40))
    ids = data.draw(st.permutations(range(n)))
    positives = data.draw(st.sets(st.sampled_from(range(n)), min_size=1))
    wrong = data.draw(st.permutations([i for i in ids if i not in positives]))
    renamed = iter(wrong)
    shuffled = [i if i in positives else next(renamed) for i in ids]
    scores = [average_precision(positive_ranks(ranked, positives), len(positives), kind) for ranked in (ids, shuffled)]
    assert scores[0] == scores[1]


def test_junk_is_removed_and_the_rest_moves_up_as_in_revisitop():
    ranked = [50, 7, 51, 9, 8, 52, 3]
    ranks = positive_ranks(ranked, positives={7, 8, 3}, junk={50, 51, 52, 99})
    assert ranks.tolist() == [0, 2, 3]
    assert average_precision(ranks, 3) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3)


@given(st.permutations(range(30)), st.sets(st.integers(0, 29)), st.sets(st.integers(0, 29)))
def test_junk_wherever_it_stands_changes_nothing(ranked, positives, junk):
    positives = positives - junk
    without = [i for i in ranked if i not in junk]
    assert positive_ranks(ranked, positives, junk).tolist() == [
        rank for rank, i in enumerate(without) if i in positives
    ]


def test_ids_beyond_what_a_float_can_tell_apart():
    big = 2**60
    assert positive_ranks([big, big + 1, big + 2], {big + 1}).tolist() == [1]


def test_a_repeated_prediction_scores_nothing_and_uses_up_a_rank():
    ranks = positive_ranks([4, 4, 5, 6, 5], {4, 5}, allow_repeats=True)
    assert ranks.tolist() == [0, 2]
    assert average_precision(ranks, 2, "truncated") == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([4, 4, 5], {5}), "image 4 is ranked twice"),
        (([4, 5], {5}, {5}), "image 5 is both positive and junk"),
    ],
)
def test_a_contradictory_ranking_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        positive_ranks(*arguments)


def test_repeated_junk_is_removed_like_any():
    assert positive_ranks([9, 9, 1], {1}, {9}).tolist() == [0]


@pytest.mark.parametrize(
    ("ranks", "positives", "k", "expected"),
    [
        ([0, 1], 2, 10, 1.0),  # the last positive is second: P@2, where the plain P@10 is 0.2
        ([0, 3], 2, 10, 2 / 4),
        ([0, 3, 12], 3, 10, 2 / 10),
        ([0, 3], 3, 10, 2 / 10),  # one was not retrieved, so its rank is beyond 10
        ([], 1, 5, 0.0),
    ],
)
def test_revisited_precision_stops_at_the_last_positive(ranks, positives, k, expected):
    ranks = np.array(ranks, np.int64)
    assert revisited_precision_at(ranks, positives, k) == pytest.approx(expected)


@given(judged_lists(max_size=40), st.integers(1, 50))
def test_precision_and_recall_are_their_definitions(judged, k):
    relevance, positives = judged
    ranks = ranks_of(relevance)
    assert precision_at(ranks, k) == pytest.approx(sum(relevance[:k]) / k)
    assert recall_at(ranks, positives, k) == pytest.approx(sum(relevance[:k]) / positives)


def test_first_rank_counts_from_one():
    assert first_rank(np.array([3, 8])) == 4
    assert first_rank(np.array([], np.int64)) is None


@pytest.mark.parametrize(("ranks", "expected"), [([0, 1, 2], 4.0), ([0, 2, 3], 3.0), ([3, 4, 5], 1.0), ([2], 2.0)])
def test_ns_score_counts_the_query_as_found(ranks, expected):
    assert ns_score(np.array(ranks)) == expected


@pytest.mark.parametrize(("ranks", "positives"), [([], 0), ([0, 1], 1), ([1, 0], 2), ([0, 0], 2), ([-1], 1)])
@pytest.mark.parametrize("kind", AVERAGE_PRECISIONS)
def test_impossible_ranks_are_refused(kind, ranks, positives):
    with pytest.raises(ValueError):
        average_precision(np.array(ranks, np.int64), positives, kind)


def test_an_unknown_kind_is_refused_with_the_choice():
    with pytest.raises(ResightError, match=r"'interpolated'.*trapezoidal, rectangular, truncated"):
        average_precision(np.array([0]), 1, "interpolated")


@pytest.mark.parametrize("k", [0, -1])
def test_depth_must_be_positive(k):
    for call in (lambda: precision_at(np.array([0]), k), lambda: recall_at(np.array([0]), 1, k)):
        with pytest.raises(ValueError, match="at least 1"):
            call()


def test_constant_descriptors_do_not_score_well():
    """With every score equal, order is by id: the mean over queries is near that of a random order."""
    groups = np.arange(200) // 4
    scores = [
        average_precision(
            positive_ranks(np.delete(np.arange(200), q), set(np.flatnonzero(groups == groups[q])) - {q}), 3
        )
        for q in range(200)
    ]
    assert math.fsum(scores) / len(scores) < 0.1
