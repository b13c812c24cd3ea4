"""Tentative correspondences over all pairs of descriptors: nearest neighbours, mutual or by Lowe's ratio (§4.2.2).

The ratio test is Lowe's, IJCV 2004, §7.1: a match whose distance is not well below that to the second nearest is as
likely to be chance. Where visual words are at hand, ``resight.local.matching`` does with far fewer comparisons.
"""

import numpy as np
from numpy.typing import NDArray

from resight.errors import QueryError

_PRODUCT = 1 << 20  # distances computed at a time: 4 MiB

Descriptors = NDArray[np.uint8] | NDArray[np.float32]


def match_all(
    a: Descriptors,
    b: Descriptors,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    max_distance: float | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The nearest of M×D descriptors b to each of N×D descriptors a, where it passes the tests asked for.

    mutual: keep (i, j) only where no row of a is nearer to j than i; of several as near that have chosen j, the
        first. So no j occurs twice.
    ratio: keep it only where its distance is below `ratio`, in (0, 1], times that to the second nearest of b;
        where b has one row there is no second, and nothing passes.
    max_distance: keep it only at or below this Euclidean distance, in the descriptors' units.
    Returns rows of a, ascending, rows of b, and distances (float32). Among equally near rows of b the first is the
    nearest. Which that is is exact for uint8 descriptors of up to 128 entries, and else as a product in float32 has
    it; distances are computed anew from differences. Memory is for float32 copies of both and a few MiB.
    Raises QueryError where the descriptors' dimensions differ or a parameter is out of range.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise QueryError(f"descriptors must be N×D and M×D, not {a.shape} and {b.shape}")
    if ratio is not None and not 0 < ratio <= 1:
        raise QueryError(f"ratio must be above 0 and at most 1, not {ratio}")
    if max_distance is not None and not max_distance >= 0:
        raise QueryError(f"max_distance must be 0 or more, not {max_distance}")
    x, y = a.astype(np.float32), b.astype(np.float32)
    i = np.arange(len(x))
    if len(x) == 0 or len(y) == 0 or (ratio is not None and len(y) < 2):
        return i[:0], i[:0], np.empty(0, np.float32)
    nearest, second, returned = _search(x, y, second=ratio is not None)
    kept = np.ones(len(x), bool)
    if mutual:
        first = np.unique(np.where(returned, nearest, -1), return_index=True)[1]
        kept = returned & np.isin(i, first)
    distance = _distances(x, y[nearest])
    if ratio is not None:
        kept &= distance < ratio * _distances(x, y[second])
    if max_distance is not None:
        kept &= distance <= max_distance
    return i[kept], nearest[kept], distance[kept]


def _search(
    x: NDArray[np.float32], y: NDArray[np.float32], *, second: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Each row's nearest in y; its second nearest, where asked for; whether no row of x is nearer to its nearest."""
    x_norm, y_norm = (np.einsum("nd,nd->n", v, v) for v in (x, y))
    # A squared distance less x's own share is one inner product, [x, 1]ᵀ [−2y, |y|²].
    lifted = np.column_stack([x, np.ones(len(x), np.float32)])
    wanted = np.column_stack([-2 * y, y_norm]).T
    nearest, runner = np.empty(len(x), np.int64), np.zeros(len(x), np.int64)
    least, squared = np.full(len(y), np.inf, np.float32), np.empty(len(x), np.float32)
    step = max(1, _PRODUCT // len(y))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        gap = lifted[part] @ wanted
        rows = np.arange(len(gap))
        best = gap.argmin(axis=1)
        gap += x_norm[part, None]
        # The least of each column, not its place, which takes thirty times as long to find.
        np.minimum(least, gap.min(axis=0), out=least)
        nearest[part], squared[part] = best, gap[rows, best]
        if second:
            gap[rows, best] = np.inf
            runner[part] = gap.argmin(axis=1)
    return nearest, runner, squared == least[nearest]


def _distances(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    difference = x - y
    squared: NDArray[np.float32] = np.einsum("nd,nd->n", difference, difference)
    return np.sqrt(squared)
