"""Pools of pairs that something else than descriptors vouches for: positives are pairs, negatives of other parts."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from resight.learning.unlabelled.pools import Places, Pools, pools_of
from resight.search.rerank.neighbours import nearest

_BLOCK = 1024  # anchors compared with all photos at a time


def parts_of(links: csr_array) -> Places:
    """(N,) number of the part of the graph that each photo is in."""
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def pools_of_pairs(pairs: csr_array, parts: Places, x: NDArray[np.float32], *, k: int) -> Pools:
    """Each photo that has a pair with those it is paired with, and as negatives the photos nearest in space of other
    parts, the nearest of each (Radenović, Tolias & Chum, TPAMI 2019, §4.3).

    pairs: N×N; entry (i, j) says how good j is as a positive of i, the best first. parts: (N,), −1 for photos that
    nothing is known of, which are no negatives. x: N×D, ℓ2-normalised. k: photos compared, of which there may be no
    negatives among; more than the largest part has some in any case. Raises RecipeError where no photo has both.
    """
    anchors = np.flatnonzero(np.diff(pairs.indptr))
    known = np.flatnonzero(parts >= 0)
    positives: list[Places] = []
    negatives: list[Places] = []
    for start in range(0, len(anchors), _BLOCK):
        part = anchors[start : start + _BLOCK]
        found = known[nearest(x[part], x[known], k)[0]] if len(known) else np.empty((len(part), 0), np.int64)
        for anchor, row in zip(part.tolist(), found, strict=True):
            own = slice(pairs.indptr[anchor], pairs.indptr[anchor + 1])
            others = pairs.indices[own].astype(np.int64)
            positives.append(others[np.lexsort((others, -pairs.data[own]))])
            other = row[parts[row] != parts[anchor]]
            negatives.append(other[np.sort(np.unique(parts[other], return_index=True)[1])])
    return pools_of(anchors, positives, negatives)
