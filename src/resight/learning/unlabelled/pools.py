"""Positives and negatives of anchors, and the batches of tuples that an epoch makes of them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.learning.mining.stages import Form
from resight.learning.task import Batch

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pools:
    """anchors: (A,) places of photos. positives, negatives: of each anchor, the hardest first; none is empty.

    Raises ValueError where they do not fit, or an anchor is in its own pools, or a photo in both.
    """

    anchors: Places
    positives: tuple[Places, ...]
    negatives: tuple[Places, ...]

    def __post_init__(self) -> None:
        if not len(self.anchors) == len(self.positives) == len(self.negatives):
            raise ValueError("there must be a pool of positives and one of negatives for each anchor")
        for anchor, positive, negative in zip(self.anchors.tolist(), self.positives, self.negatives, strict=True):
            if not len(positive) or not len(negative):
                raise ValueError(f"a pool of anchor {anchor} is empty")
            if anchor in positive or anchor in negative or np.intersect1d(positive, negative).size:
                raise ValueError(f"the pools of anchor {anchor} hold it, or a photo twice")


def pools_of(anchors: Places, positives: list[Places], negatives: list[Places]) -> Pools:
    """The pools of those anchors that have both. Raises RecipeError where none has."""
    full = [bool(len(p) and len(n)) for p, n in zip(positives, negatives, strict=True)]
    if not any(full):
        raise RecipeError(
            f"of {len(anchors)} anchors {sum(map(bool, map(len, positives)))} have positives and "
            f"{sum(map(bool, map(len, negatives)))} negatives, and none has both: nothing can be learned. Give more "
            "photos, several of each thing, or look farther (unlabelled.k, unlabelled.graph)"
        )
    rows = np.flatnonzero(full).tolist()
    return Pools(anchors[rows], tuple(positives[r] for r in rows), tuple(negatives[r] for r in rows))


def batches_of_pools(
    pools: Pools,
    *,
    queries: int,
    negatives: int,
    draw: Literal["random", "hardest"] = "random",
    tuples_per_batch: int = 5,
    form: Form = "triplets",
    epoch: int,
    seed: int,
) -> list[Batch]:
    """An epoch's batches: anchors in an order drawn, each with one positive drawn, and its negatives.

    The settings are ``PoolsStage``'s. A batch's ``tuples`` have for each anchor and negative a row (anchor, positive,
    negative), or (anchor, positive, anchor, negative); an anchor with fewer negatives has fewer rows. By the seed and
    the epoch alone.
    """
    rng = np.random.default_rng([seed, epoch])
    rows: list[Places] = []
    for row in rng.permutation(len(pools.anchors))[:queries].tolist():
        positive, pool = rng.choice(pools.positives[row]), pools.negatives[row]
        chosen = pool[:negatives] if draw == "hardest" else rng.permutation(pool)[:negatives]
        anchor = np.full(len(chosen), pools.anchors[row])
        matched = np.full(len(chosen), positive)
        columns = [anchor, matched, chosen] if form == "triplets" else [anchor, matched, anchor, chosen]
        rows.append(np.stack(columns, axis=1))
    return [_batch(rows[start : start + tuples_per_batch]) for start in range(0, len(rows), tuples_per_batch)]


def _batch(rows: list[Places]) -> Batch:
    """One batch, each photo once."""
    tuples = np.concatenate(rows)
    places, found = np.unique(tuples, return_inverse=True)
    return Batch(places, found.reshape(tuples.shape).astype(np.int64))
