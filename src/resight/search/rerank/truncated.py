"""Rows of (I − αS)⁻¹, each on the few vectors nearest to its own ("late truncation"; Yang et al., AAAI 2019).

S is normalised over all N vectors; only the systems that are solved are cut out of it, one for each vector.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from resight.search.rerank.diffusion import conjugate_gradient, normalised
from resight.search.rerank.neighbours import affinity, graph, mutual, nearest, without
from resight.store.indexing import Progress

_SEARCHED = 1024  # vectors compared with all others at a time
_UNKNOWNS = 16_384  # of the systems that are solved together, so that they stay in the cache


def transitions(
    vectors: NDArray[np.float32],
    columns: NDArray[np.int32],
    k: int,
    gamma: float,
    progress: Callable[[Progress], None],
) -> csr_array:
    """S of N×D vectors, by reciprocal ones among their k nearest others; memory is for N×k entries.

    columns: N×T, T above k; filled with the T nearest to each, itself among them.
    """
    n, t = columns.shape
    neighbours, similarity = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    for start in range(0, n, _SEARCHED):
        part = slice(start, min(start + _SEARCHED, n))
        own = np.arange(part.start, part.stop)
        rows, close = nearest(vectors[part], vectors, t)
        others = without(rows, own)
        kept = others & (np.cumsum(others, axis=1) <= k)
        neighbours[part], similarity[part] = rows[kept].reshape(len(own), k), close[kept].reshape(len(own), k)
        rows[~others] = own  # itself, also where as many copies had kept it out
        columns[part] = rows
        progress(Progress("finding neighbours", part.stop, n))
    return normalised(mutual(affinity(graph(neighbours, similarity), gamma)))


def solve_rows(
    s: csr_array,
    columns: NDArray[np.int32],
    weights: NDArray[np.float32],
    *,
    alpha: float,
    tolerance: float,
    iterations: int,
    progress: Callable[[Progress], None],
) -> None:
    """Fill weights, N×T, with the rows' entries at N×T columns."""
    n, t = columns.shape
    together = max(1, _UNKNOWNS // t)
    place = np.full((together, n), -1, np.int32)
    for start in range(0, n, together):
        part = slice(start, min(start + together, n))
        own = np.arange(part.start, part.stop)[:, None] == columns[part]
        multiply = _cut(s, columns[part], alpha, place)
        weights[part] = conjugate_gradient(multiply, own.astype(np.float64), tolerance, iterations)
        progress(Progress("diffusing", part.stop, n))


def _cut(
    s: csr_array, columns: NDArray[np.int32], alpha: float, place: NDArray[np.int32]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The product of M systems I − αS, each cut to its T columns, with as many vectors: M×T → M×T.

    place: M×N or more scratch of −1, left as it was found.
    """
    m, t = columns.shape
    systems = np.arange(m)[:, None]
    place[systems, columns] = np.arange(m * t).reshape(m, t)
    begins = s.indptr[columns].ravel()
    counts = s.indptr[columns + 1].ravel() - begins
    ends = np.concatenate([[0], np.cumsum(counts)])
    entries = np.arange(ends[-1]) + np.repeat(begins - ends[:-1], counts)
    to = place[np.repeat(np.arange(m), np.diff(ends[::t])), s.indices[entries]]
    place[systems, columns] = -1
    inside = to >= 0
    ends = np.concatenate([[0], np.cumsum(inside)])[ends].astype(np.int32)
    blocks = csr_array((s.data[entries[inside]], to[inside], ends), shape=(m * t, m * t))

    def multiply(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(p - alpha * (blocks @ p.ravel()).reshape(m, t))

    return multiply
