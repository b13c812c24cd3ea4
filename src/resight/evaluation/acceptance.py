"""How well "found" and "nothing found" are told apart: figures for what a ranking accepts as matches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Outcome:
    """One query's ranking reduced to what the figures need, the query itself and junk removed.

    ranks: R increasing 0-based int64 ranks of the retrieved positives.
    positives: number of all positives, 0 for a query with no answer in the database.
    accepted: how many entries, from the front, were accepted as matches.
    """

    ranks: NDArray[np.int64]
    positives: int
    accepted: int

    @property
    def right(self) -> int:
        """Accepted entries that are positive."""
        return int(np.count_nonzero(self.ranks < self.accepted))


@dataclass(frozen=True)
class Acceptance:
    """Figures of the accepted sets, each a fraction, or None where there is nothing to take it of.

    Of the queries with an answer:
    found: their first result is accepted and positive.
    missed: nothing is accepted.
    misled: something is accepted and none of it is positive.
    precision: accepted entries that are positive, all queries' entries pooled.
    recall: positives that are accepted, averaged over queries.
    Of the queries without an answer:
    rejected: nothing is accepted, which is right.
    false_accepts: entries accepted, mean count a query.
    """

    found: float | None
    missed: float | None
    misled: float | None
    precision: float | None
    recall: float | None
    rejected: float | None
    false_accepts: float | None


def acceptance(outcomes: Sequence[Outcome]) -> Acceptance:
    """The figures of a set of queries, with and without answers."""
    answerable = [o for o in outcomes if o.positives]
    unanswerable = [o for o in outcomes if not o.positives]
    accepted = sum(o.accepted for o in answerable)
    return Acceptance(
        found=_mean([o.accepted > 0 and len(o.ranks) > 0 and bool(o.ranks[0] == 0) for o in answerable]),
        missed=_mean([o.accepted == 0 for o in answerable]),
        misled=_mean([o.accepted > 0 and o.right == 0 for o in answerable]),
        precision=sum(o.right for o in answerable) / accepted if accepted else None,
        recall=_mean([o.right / o.positives for o in answerable]),
        rejected=_mean([o.accepted == 0 for o in unanswerable]),
        false_accepts=_mean([o.accepted for o in unanswerable]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
