"""Figures for one ranked list, from the ranks of its positives (survey §6; revisitop; GLDv2; UKBench).

Every function takes ``ranks``: R increasing 0-based ranks of the retrieved positives, after junk has been
removed (`positive_ranks` makes them), and, where it matters, ``positives``: the number of all positives,
retrieved or not.
"""

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import ResightError

TRUNCATE_AT: Final = {"truncated": 100, "truncated-1000": 1000}
"""Cut-offs of the truncated average precisions: GLDv2's mAP@100, ILIAS's mAP@1k."""


def positive_ranks(
    ranked: ArrayLike, positives: Iterable[int], junk: Iterable[int] = (), *, allow_repeats: bool = False
) -> NDArray[np.int64]:
    """0-based ranks of the positives in a ranking from which junk is removed.

    ranked: N integer image ids, best first; positives, junk: ids in any order.
    allow_repeats: an id listed again scores nothing and uses up a rank, as GLDv2 counts a submitted list.
    Returns R increasing ranks, R at most the number of positives.
    Raises ValueError if an id is ranked twice and repeats are not allowed, or if an id is both positive and
    junk.
    """
    wanted, removed = frozenset(positives), frozenset(junk)
    if both := wanted & removed:
        raise ValueError(f"image {min(both)} is both positive and junk")
    ids = np.asarray(ranked, dtype=np.int64)
    ids = ids[~np.isin(ids, _array(removed))]
    first_time = np.zeros(len(ids), bool)
    first_time[np.unique(ids, return_index=True)[1]] = True
    if not allow_repeats and not first_time.all():
        raise ValueError(f"image {ids[~first_time][0]} is ranked twice")
    return np.flatnonzero(np.isin(ids, _array(wanted)) & first_time)


def average_precision(ranks: NDArray[np.int64], positives: int, kind: str = "trapezoidal") -> float:
    """Average precision in [0, 1] of the kind named; see `AVERAGE_PRECISIONS`.

    Raises ResightError for a kind that does not exist, ValueError where there is no positive to find.
    """
    check_kind(kind)
    _check(ranks, positives)
    return AVERAGE_PRECISIONS[kind](ranks, positives)


def trapezoidal(ranks: NDArray[np.int64], positives: int) -> float:
    """Area under the precision-recall polygon (Philbin et al. 2007's compute_ap; Oxford, Paris, Holidays,
    revisitop).

    AP = Σ_j (p0 + p1) / 2R with p0 = j / r_j (1 where r_j = 0), p1 = (j + 1) / (r_j + 1), j counted from 0.
    """
    j = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, j / np.maximum(ranks, 1))
    return float(np.sum(before + (j + 1) / (ranks + 1)) / (2 * positives))


def rectangular(ranks: NDArray[np.int64], positives: int) -> float:
    """Mean over all positives of the precision at each one's rank (survey Eq. 18): Σ_k P(k)·rel(k) / R."""
    return float(np.sum(np.arange(1, len(ranks) + 1) / (ranks + 1)) / positives)


def truncated(ranks: NDArray[np.int64], positives: int) -> float:
    """Rectangular within the first 100: Σ_{k≤100} P(k)·rel(k) / min(R, 100) (GLDv2, Weyand et al. 2020)."""
    return _truncated(ranks, positives, TRUNCATE_AT["truncated"])


def truncated_1000(ranks: NDArray[np.int64], positives: int) -> float:
    """Rectangular within the first 1000: Σ_{k≤1000} P(k)·rel(k) / min(R, 1000) (ILIAS, Kordopatis-Zilos et al. 2025).

    That paper's AP × found / min(R, 1000), AP being the mean over those found.
    """
    return _truncated(ranks, positives, TRUNCATE_AT["truncated-1000"])


def _truncated(ranks: NDArray[np.int64], positives: int, k: int) -> float:
    return rectangular(ranks[ranks < k], min(positives, k))


def check_kind(kind: str) -> None:
    """Raises ResightError where no average precision is called so."""
    if kind not in AVERAGE_PRECISIONS:
        raise ResightError(f"no average precision is called {kind!r}; choose {', '.join(AVERAGE_PRECISIONS)}")


AVERAGE_PRECISIONS: Final[dict[str, Callable[[NDArray[np.int64], int], float]]] = {
    "trapezoidal": trapezoidal,
    "rectangular": rectangular,
    "truncated": truncated,
    "truncated-1000": truncated_1000,
}


def micro_average_precision(right: NDArray[np.bool_], answerable: int) -> float:
    """GAP, or µAP: average precision of all queries' predictions in one list (Weyand et al. 2020, GLDv2 recognition).

    GAP = Σ_i P(i)·right(i) / M, P(i) the share of the first i that are right.
    right: (N,), whether each prediction, at most one a query, is right; most confident first, those of queries without
        an answer among them, wrong. answerable: M, queries with an answer, whether anything was predicted or not.
    Raises ValueError where no query has an answer, or more predictions are right.
    """
    if answerable < 1:
        raise ValueError("no query has an answer: there is nothing to recognise")
    ranks = np.flatnonzero(right)
    _check(ranks, answerable)
    return rectangular(ranks, answerable)


def precision_at(ranks: NDArray[np.int64], k: int) -> float:
    """Fraction of the first k that are positive; a list shorter than k is short of positives too."""
    return np.count_nonzero(ranks < _depth(k)) / k


def revisited_precision_at(ranks: NDArray[np.int64], positives: int, k: int) -> float:
    """Precision at min(last positive's rank, k) (Radenović et al. 2018, revisitop's mP@k).

    Where some positive was not retrieved, its rank is beyond any k, and the cut-off is k.
    """
    _check(ranks, positives)
    last = int(ranks[-1]) + 1 if len(ranks) == positives else k
    return precision_at(ranks, min(last, _depth(k)))


def recall_at(ranks: NDArray[np.int64], positives: int, k: int) -> float:
    """Fraction of all positives that are among the first k."""
    _check(ranks, positives)
    return np.count_nonzero(ranks < _depth(k)) / positives


def first_rank(ranks: NDArray[np.int64]) -> int | None:
    """1-based rank of the first positive, None where none was retrieved."""
    return int(ranks[0]) + 1 if len(ranks) else None


def ns_score(ranks: NDArray[np.int64]) -> float:
    """Images of the query's group of four in the top 4, between 1 and 4 (Nistér & Stewénius 2006).

    ``ranks`` come from a leave-one-out ranking: the query is counted as found first, then the top 3 of the
    rest.
    """
    return 1.0 + np.count_nonzero(ranks < 3)


def _check(ranks: NDArray[np.int64], positives: int) -> None:
    if positives < 1:
        raise ValueError("a query without positives has no such figure: drop it and count it")
    if len(ranks) > positives:
        raise ValueError(f"{len(ranks)} positives retrieved of {positives}")
    if len(ranks) and (ranks[0] < 0 or np.any(np.diff(ranks) <= 0)):
        raise ValueError("ranks must be increasing and not negative")


def _depth(k: int) -> int:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return k


def _array(ids: frozenset[int]) -> NDArray[np.int64]:
    return np.fromiter(ids, np.int64, len(ids))
