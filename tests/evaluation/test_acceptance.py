"""Acceptance and means, worked by hand."""

import numpy as np
import pytest

from resight.evaluation.acceptance import Outcome, acceptance
from resight.evaluation.figures import figures


def outcome(ranks, positives, accepted):
    return Outcome(np.array(ranks, np.int64), positives, accepted)


RIGHT = outcome([0, 1, 4], 4, 3)  # two of three accepted are right, of four
SECOND = outcome([1], 1, 2)  # the first accepted is wrong
MISLED = outcome([5], 2, 2)
MISSED = outcome([0], 1, 0)
REJECTED = outcome([], 0, 0)
FOOLED = outcome([], 0, 3)


def test_acceptance_worked_by_hand():
    a = acceptance([RIGHT, SECOND, MISLED, MISSED, REJECTED, FOOLED, FOOLED])
    assert a.found == pytest.approx(1 / 4)
    assert a.missed == pytest.approx(1 / 4)
    assert a.misled == pytest.approx(1 / 4)
    assert a.precision == pytest.approx((2 + 1 + 0) / (3 + 2 + 2))
    assert a.recall == pytest.approx((2 / 4 + 1 + 0 + 0) / 4)
    assert a.rejected == pytest.approx(1 / 3)
    assert a.false_accepts == pytest.approx(2.0)


def test_a_figure_of_nothing_is_no_number():
    a = acceptance([REJECTED])
    assert (a.found, a.missed, a.misled, a.precision, a.recall) == (None,) * 5
    assert acceptance([MISSED]).precision is None
    assert acceptance([MISSED]).rejected is None


def test_queries_without_an_answer_are_outside_the_means_and_counted():
    both, alone = figures([RIGHT, MISSED, FOOLED]), figures([RIGHT, MISSED])
    assert (both.queries, both.unanswerable) == (2, 1)
    assert both.mean_average_precision == alone.mean_average_precision
    assert both.mean_average_precision == pytest.approx(((1 + 1 + (2 / 4 + 3 / 5) / 2) / 4 + 1) / 2)
    assert both.precision_at_1 == 1.0
    assert both.precision_at_10 == pytest.approx((3 / 10 + 1 / 10) / 2)
    assert both.revisited_precision_at_10 == pytest.approx((3 / 10 + 1) / 2)
    assert both.recall_at_10 == pytest.approx((3 / 4 + 1) / 2)


def test_the_median_first_rank_is_late_where_nothing_was_retrieved():
    lost = outcome([], 1, 0)
    assert figures([SECOND, RIGHT, lost]).median_first == 2
    assert figures([lost, lost, RIGHT]).median_first is None


def test_the_ns_score_is_given_only_in_fours():
    fours = [outcome([0, 1, 2], 3, 0), outcome([0, 2, 7], 3, 0)]
    assert figures(fours).ns_score is None
    assert figures(fours, in_fours=True).ns_score == pytest.approx(3.5)


def test_only_unanswerable_queries_give_no_means():
    f = figures([REJECTED, FOOLED])
    assert f.mean_average_precision is None
    assert f.median_first is None
    assert f.acceptance.rejected == 0.5
