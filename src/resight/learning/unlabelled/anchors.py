"""Anchors that stand for many photos and differ from each other: modes of a random walk (Iscen et al., CVPR 2018)."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


def stationary(edges: csr_array) -> NDArray[np.float64]:
    """(N,) how often a random walk on the graph is at each node, in the long run: π = πD⁻¹W.

    edges: W, N×N, symmetric and of weights above 0, for which π is the share of a node's weights in all (Lovász 1993);
    the authors find it by power iteration. Where the graph falls into parts, the walk starts in each in proportion to
    its weights.
    """
    degree = np.asarray(edges.sum(axis=1), np.float64).ravel()
    total = float(degree.sum())
    return degree / total if total > 0 else degree


def modes(edges: csr_array, visits: NDArray[np.float64]) -> NDArray[np.int64]:
    """Nodes that are visited more than all their neighbours, the most visited first; of equals the lower node.

    Nodes without neighbours are none. visits: (N,).
    """
    order = np.lexsort((np.arange(len(visits)), -visits))
    rank = np.empty(len(visits), np.int64)
    rank[order] = np.arange(len(visits))
    linked = np.flatnonzero(np.diff(edges.indptr))
    if not len(linked):
        return np.empty(0, np.int64)
    least = np.minimum.reduceat(rank[edges.indices], edges.indptr[linked])
    found = linked[rank[linked] < least]
    return found[np.argsort(rank[found])]
