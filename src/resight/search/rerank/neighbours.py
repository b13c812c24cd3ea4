"""Nearest-neighbour graphs, which most re-ranking walks on: directed, reciprocal, and weighted by affinity.

A graph is an N×N ``scipy.sparse.csr_array`` whose entry (i, j) weighs the edge from i to its neighbour j; no node is
its own neighbour. Published code often counts a node among its k neighbours; here k are others.
"""

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from resight.errors import RecipeError

_BLOCK = 4096  # vectors compared with all others at a time


def nearest(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the min(k, N) vectors of largest inner product with each query, and these; both Q×k.

    The largest first, ties by row.
    """
    k = min(k, len(vectors))
    if k == 0 or len(queries) == 0:
        return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    x, y = (np.ascontiguousarray(v, np.float32) for v in (queries, vectors))
    similarity, rows = faiss.knn(x, y, k, metric=faiss.METRIC_INNER_PRODUCT)
    order = np.lexsort((rows, -similarity))
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarity, order, axis=1)


def knn(vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As ``nearest``, for each vector among the others: both N×min(k, N−1). RecipeError for k below 1."""
    if k < 1:
        raise RecipeError(f"k must be 1 neighbour or more, not {k}")
    n = len(vectors)
    k = min(k, max(0, n - 1))
    rows, similarity = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    for start in range(0, n, _BLOCK):
        part = slice(start, start + _BLOCK)
        found, close = nearest(vectors[part], vectors, k + 1)
        others = without(found, np.arange(start, start + len(found)))
        rows[part] = found[others].reshape(len(found), k)
        similarity[part] = close[others].reshape(len(found), k)
    return rows, similarity


def without(found: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.bool_]:
    """N×k, all true but one in each row: where a list of neighbours holds the node itself.

    Where as many copies of a node keep it from its own list, the last is left out instead.
    """
    others: NDArray[np.bool_] = found != own[:, None]
    others[others.all(axis=1), -1:] = False
    return others


def graph(rows: NDArray[np.int64], similarity: NDArray[np.float32]) -> csr_array:
    """The directed graph, in float64, of N lists of k neighbours; both N×k."""
    n, k = rows.shape
    edges = csr_array((similarity.ravel().astype(np.float64), rows.ravel(), np.arange(n + 1) * k), shape=(n, n))
    edges.sort_indices()
    return edges


def knn_graph(vectors: NDArray[np.float32], k: int) -> csr_array:
    """Edges from each vector to its k nearest others, weighted by inner product."""
    return graph(*knn(vectors, k))


def affinity(edges: csr_array, gamma: float) -> csr_array:
    """max(s, 0)^γ of each edge (Iscen et al., CVPR 2017, Eq. 6, with γ = 3); edges of no affinity are dropped."""
    if gamma <= 0:
        raise RecipeError(f"gamma must be above 0, not {gamma}")
    powered = edges.copy()
    powered.data = np.maximum(powered.data, 0) ** gamma
    powered.eliminate_zeros()
    return powered


def mutual(edges: csr_array) -> csr_array:
    """The edges that have one in return, of positive weights: symmetric, the lesser weight of the two."""
    shared = csr_array(edges.minimum(edges.T))
    shared.eliminate_zeros()
    return shared


def mutual_graph(vectors: NDArray[np.float32], k: int, gamma: float) -> csr_array:
    """The affinities of reciprocal neighbours (Iscen et al., CVPR 2017, Eq. 7): i and j are each other's k-nearest."""
    return mutual(affinity(knn_graph(vectors, k), gamma))
