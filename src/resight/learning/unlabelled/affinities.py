"""How near photos are on the manifold of their descriptors: diffusion, regularised diffusion, and ways on the graph.

Each gives rows of an N×N affinity, of which only those that are asked for are made: M of them take M×N doubles, a few
times over.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array
from scipy.sparse.csgraph import dijkstra

from resight.search.rerank.diffusion import check_alpha, conjugate_gradient, diffuse, normalised

Rows = NDArray[np.float64]
_SHORTEST = 1e-6  # a way between copies of a photo; of length 0 it would be no edge


def diffusion_rows(
    edges: csr_array,
    nodes: NDArray[np.int64],
    alpha: float = 0.99,
    tolerance: float = 1e-6,
    iterations: int = 100,
) -> Rows:
    """M×N rows of (I − αS)⁻¹, S the normalised affinities (Iscen et al., CVPR 2017); 0 for what is not reached.

    edges: N×N symmetric, weights above 0. nodes: (M,).
    """
    y = np.zeros((edges.shape[0], len(nodes)))
    y[nodes, np.arange(len(nodes))] = 1
    return diffuse(normalised(edges), y, alpha, tolerance, iterations).T


def rdp_rows(
    edges: csr_array,
    nodes: NDArray[np.int64],
    alpha: float = 1 / 1.18,
    tolerance: float = 1e-6,
    iterations: int = 100,
) -> Rows:
    """M×N rows of (1 − α)(I − αS²)⁻¹, S of the edges with a loop of 1 at each node (Bai et al., TPAMI 2019).

    It is the limit of regularised diffusion of pairs with E = I (``search.rerank.rdp``, which solves one row at a
    time). edges, nodes: as ``diffusion_rows`` takes them.
    """
    check_alpha(alpha)
    s = normalised(csr_array(edges + eye_array(edges.shape[0])))
    b = np.zeros((len(nodes), edges.shape[0]))
    b[np.arange(len(nodes)), nodes] = 1 - alpha
    return conjugate_gradient(lambda p: p - alpha * (s @ (s @ p.T)).T, b, tolerance, iterations)


def geodesic_rows(lengths: csr_array, nodes: NDArray[np.int64]) -> Rows:
    """M×N lengths of shortest ways, negated so that more is nearer; −∞ where there is none. Dijkstra's algorithm.

    lengths: N×N, of edges that go both ways if either is there (``edge_lengths``). nodes: (M,).
    """
    return -np.asarray(dijkstra(lengths, directed=False, indices=nodes)).reshape(len(nodes), lengths.shape[0])


def edge_lengths(cosines: csr_array) -> csr_array:
    """√(2 − 2s), the Euclidean distance of ℓ2-normalised descriptors, of each edge of cosine s."""
    lengths = cosines.copy()
    lengths.data = np.maximum(np.sqrt(np.maximum(2 - 2 * lengths.data, 0)), _SHORTEST)
    return lengths


def first(row: NDArray[np.float64], count: int, *, floor: float, but: int) -> NDArray[np.int64]:
    """At most so many nodes of (N,) affinities above the floor, the nearest first, ties by node, without one node."""
    able = np.flatnonzero(row > floor)
    able = able[able != but]
    if len(able) > count:
        values = row[able]
        able = able[values >= np.partition(values, len(values) - count)[len(values) - count]]
    order = np.lexsort((able, -row[able]))
    return np.asarray(able[order][:count], np.int64)
