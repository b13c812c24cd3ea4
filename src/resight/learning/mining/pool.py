"""Hard negatives mined over a pool before each epoch (Radenović, Tolias & Chum, ECCV 2016; cirtorch's tuples)."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import RecipeError
from resight.learning.mining.stages import Form, Positives
from resight.learning.task import Batch

Describe = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Places (n,), each once and in order → their ℓ2-normalised descriptors n×D."""


def mine_pool(
    describe: Describe,
    labels: ArrayLike,
    *,
    queries: int,
    pool: int,
    negatives: int,
    epoch: int,
    seed: int,
    positives: Positives = "random",
    tuples_per_batch: int = 5,
    form: Form = "triplets",
    block: int = 256,
) -> list[Batch]:
    """An epoch's batches of tuples: an anchor, a positive, and the pool's most similar photos of other classes, at most
    one of each class.

    The settings are ``PoolStage``'s. describe: called once, with all anchors, the pool and, if descriptors choose them,
    all positives of the anchors. labels: (N,). Anchors and pool are drawn anew by the seed and the epoch, all photos
    where there are no more; the pool is enlarged where it has too few classes.
    A batch's ``tuples`` are for each anchor and negative a row (anchor, positive, negative), or (anchor, positive,
    anchor, negative). Beside the descriptors, block × pool similarities are in memory. Ties go to the lower place.
    Raises RecipeError where no photo has a positive, there are too few classes, or a descriptor is not finite.
    """
    numbers = np.unique(np.asarray(labels), return_inverse=True)[1]
    rng = np.random.default_rng([seed, epoch])
    able = np.flatnonzero(np.bincount(numbers)[numbers] > 1)
    if not len(able):
        raise RecipeError("no two photos are of one object: pairs cannot be made; give several photos of objects")
    anchors = rng.permutation(able)[:queries]
    candidates = _pool(numbers, pool, negatives, rng)
    matching = [np.setdiff1d(np.flatnonzero(numbers == numbers[anchor]), anchor) for anchor in anchors]
    compared = np.concatenate(matching) if positives != "random" else anchors
    places = np.unique(np.concatenate([anchors, candidates, compared]))
    vectors = _checked(describe(places), len(places))

    def rows(of: NDArray[np.int64]) -> NDArray[np.float32]:
        return vectors[np.searchsorted(places, of)]

    if positives == "random":
        chosen = np.array([rng.choice(others) for others in matching])
    else:
        sign = 1 if positives == "closest" else -1
        chosen = np.array(
            [others[np.argmax(sign * (rows(others) @ rows(a)))] for a, others in zip(anchors, matching, strict=True)]
        )
    sought = rows(candidates)
    found = np.concatenate(
        [
            _hardest(rows(part) @ sought.T, numbers[part], candidates, numbers[candidates], negatives)
            for part in np.array_split(anchors, -(-len(anchors) // block))
        ]
    )
    parts = np.array_split(np.arange(len(anchors)), -(-len(anchors) // tuples_per_batch))
    return [_batch(anchors[part], chosen[part], found[part], form) for part in parts]


def _pool(numbers: NDArray[np.int64], size: int, negatives: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places drawn, of more classes than there are negatives to be found; by class, then by place."""
    drawn = rng.permutation(len(numbers))
    first = np.sort(np.unique(numbers[drawn], return_index=True)[1])  # where each class comes first
    if len(first) <= negatives:
        raise RecipeError(
            f"{negatives} negatives of different objects cannot be found for each anchor among {len(first)} objects: "
            "ask for fewer (miner.negatives), or give photos of more"
        )
    pool = np.sort(drawn[: max(size, int(first[negatives]) + 1)])
    return pool[np.argsort(numbers[pool], kind="stable")]


def _hardest(
    similar: NDArray[np.float32],
    classes: NDArray[np.int64],
    places: NDArray[np.int64],
    place_classes: NDArray[np.int64],
    count: int,
) -> NDArray[np.int64]:
    """B×count places, the most similar first: of each class but the anchor's its most similar photo."""
    names, starts = np.unique(place_classes, return_index=True)
    spans = list(pairwise([*starts.tolist(), len(places)]))
    best = np.maximum.reduceat(similar, starts, axis=1)
    best[classes[:, None] == names] = -np.inf
    found = np.empty((len(similar), count), np.int64)
    for row in range(len(similar)):
        last = np.partition(best[row], -count)[-count]
        groups = np.flatnonzero(best[row] >= last)  # more than count where classes tie for the last place
        photos = np.array([places[s + np.argmax(similar[row, s:e])] for s, e in (spans[group] for group in groups)])
        found[row] = photos[np.lexsort([photos, -best[row, groups]])][:count]
    return found


def _batch(anchors: NDArray[np.int64], positives: NDArray[np.int64], negatives: NDArray[np.int64], form: Form) -> Batch:
    """One batch of T anchors, T positives and T×n negatives, each photo once."""
    count = negatives.shape[1]
    anchor, positive, negative = np.repeat(anchors, count), np.repeat(positives, count), negatives.ravel()
    columns = [anchor, positive, negative] if form == "triplets" else [anchor, positive, anchor, negative]
    places, rows = np.unique(np.stack(columns, axis=1), return_inverse=True)
    return Batch(places, rows.reshape(-1, len(columns)).astype(np.int64))


def _checked(vectors: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    if vectors.ndim != 2 or len(vectors) != n:
        raise ValueError(f"there must be a descriptor for each of {n} photos, not {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise RecipeError("descriptors are not finite: what was learned has diverged; lower the rate")
    return vectors
