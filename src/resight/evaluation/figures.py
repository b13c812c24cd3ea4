"""The figures of a set of queries: means of the metrics over its outcomes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from resight.evaluation.acceptance import Acceptance, Outcome, acceptance
from resight.evaluation.metrics import (
    average_precision,
    first_rank,
    ns_score,
    precision_at,
    recall_at,
    revisited_precision_at,
)


@dataclass(frozen=True)
class Figures:
    """Means over the queries of a set or subset, in [0, 1] where not said otherwise; None where undefined.

    queries, unanswerable: queries with and without positives; only ``acceptance`` looks at the latter.
    revisited_precision_at_5, revisited_precision_at_10: at min(last positive's rank, 5 or 10); at 1 it is
        ``precision_at_1``.
    median_first: median 1-based rank of the first positive, queries that retrieved none counted as infinitely
        late; None where that is the median.
    ns_score: in [1, 4], where every query is one of four images of its object.
    """

    queries: int
    unanswerable: int
    mean_average_precision: float | None
    precision_at_1: float | None
    precision_at_10: float | None
    revisited_precision_at_5: float | None
    revisited_precision_at_10: float | None
    recall_at_10: float | None
    recall_at_100: float | None
    median_first: float | None
    ns_score: float | None
    acceptance: Acceptance


def figures(outcomes: Sequence[Outcome], kind: str = "trapezoidal", *, in_fours: bool = False) -> Figures:
    """The figures of these outcomes, with average precision of the kind named (see `metrics`).

    in_fours: the outcomes are of leave-one-out queries in groups of four, for which the N-S score is defined.
    Raises ResightError for a kind that does not exist.
    """
    answerable = [outcome for outcome in outcomes if outcome.positives]

    def mean(metric: Callable[[Outcome], float]) -> float | None:
        return math.fsum(map(metric, answerable)) / len(answerable) if answerable else None

    firsts = [first_rank(outcome.ranks) or math.inf for outcome in answerable]
    median = float(np.median(firsts)) if firsts else math.inf
    return Figures(
        queries=len(answerable),
        unanswerable=len(outcomes) - len(answerable),
        mean_average_precision=mean(lambda o: average_precision(o.ranks, o.positives, kind)),
        precision_at_1=mean(lambda o: precision_at(o.ranks, 1)),
        precision_at_10=mean(lambda o: precision_at(o.ranks, 10)),
        revisited_precision_at_5=mean(lambda o: revisited_precision_at(o.ranks, o.positives, 5)),
        revisited_precision_at_10=mean(lambda o: revisited_precision_at(o.ranks, o.positives, 10)),
        recall_at_10=mean(lambda o: recall_at(o.ranks, o.positives, 10)),
        recall_at_100=mean(lambda o: recall_at(o.ranks, o.positives, 100)),
        median_first=median if math.isfinite(median) else None,
        ns_score=mean(lambda o: ns_score(o.ranks)) if in_fours else None,
        acceptance=acceptance(outcomes),
    )
