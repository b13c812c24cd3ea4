"""Pools by the difference between neighbours on the manifold and neighbours in space (survey §5.2.1)."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from resight.errors import RecipeError
from resight.learning.unlabelled.affinities import (
    Rows,
    diffusion_rows,
    edge_lengths,
    first,
    geodesic_rows,
    rdp_rows,
)
from resight.learning.unlabelled.anchors import modes, stationary
from resight.learning.unlabelled.pools import Places, Pools, pools_of
from resight.learning.unlabelled.stages import AffinityStage, MomStage
from resight.search.rerank.neighbours import affinity, graph, knn, mutual

_NUMBERS = 4_000_000  # of a block's affinities: 32 MB, some times


def mom(x: NDArray[np.float32], stage: MomStage) -> Pools:
    """Mining on manifolds: of each anchor the k nearest by diffusion that are not among the k nearest in space are
    positives, and the other way round negatives (Iscen et al., CVPR 2018, Eq. 4 and 5).

    x: N×D, ℓ2-normalised. The graph is of reciprocal neighbours. Positives come by affinity, negatives by cosine.
    Raises RecipeError where no anchor has both.
    """
    k, neighbours = stage.compared(len(x)), stage.neighbours(len(x))
    rows, similarity = knn(x, max(neighbours, k))
    edges = mutual(affinity(graph(rows[:, :neighbours], similarity[:, :neighbours]), stage.gamma))
    anchors = modes(edges, stationary(edges))
    anchors = anchors[: stage.anchors] if stage.anchors else anchors
    if not len(anchors):
        raise RecipeError("no two photos are each other's neighbours: give more photos, or ask for a larger graph")
    close = rows[:, :k]
    positives: list[Places] = []
    negatives: list[Places] = []
    for part, block in _blocks(anchors, len(x), lambda own: diffusion_rows(edges, own, stage.alpha)):
        for anchor, row in zip(part.tolist(), block, strict=True):
            near = first(row, k, floor=0.0, but=anchor)
            positives.append(near[~np.isin(near, close[anchor])])
            negatives.append(close[anchor][~np.isin(close[anchor], near)])
    return pools_of(anchors, positives, negatives)


def by_affinity(x: NDArray[np.float32], stage: AffinityStage, *, epoch: int, seed: int) -> Pools:
    """Of each anchor the first by an affinity are positives, and the k nearest in space that are not among the
    ``near`` first by it are negatives, the nearest first.

    x: N×D, ℓ2-normalised. Diffusion is over reciprocal neighbours, ways are over all edges. epoch, seed: draw anchors.
    Raises RecipeError where no anchor has both.
    """
    (wide, k), neighbours = stage.reach(len(x)), stage.neighbours(len(x))
    rows, similarity = knn(x, max(neighbours, k))
    cosines = graph(rows[:, :neighbours], similarity[:, :neighbours])
    affinities = affinity_rows(cosines, stage)
    floor = -np.inf if stage.kind == "geodesic" else 0.0
    anchors = np.sort(np.random.default_rng([seed, epoch]).permutation(len(x))[: stage.anchors or len(x)])
    close = rows[:, :k]
    positives: list[Places] = []
    negatives: list[Places] = []
    for part, block in _blocks(anchors, len(x), affinities):
        for anchor, row in zip(part.tolist(), block, strict=True):
            near = first(row, wide, floor=floor, but=anchor)
            positives.append(near[: stage.positives])
            negatives.append(close[anchor][~np.isin(close[anchor], near)])
    return pools_of(anchors, positives, negatives)


def affinity_rows(cosines: csr_array, stage: AffinityStage) -> Callable[[Places], Rows]:
    """What gives the affinities of nodes, M×N, on a graph of cosines."""
    if stage.kind == "geodesic":
        lengths = edge_lengths(cosines)
        return lambda own: geodesic_rows(lengths, own)
    edges = mutual(affinity(cosines, stage.gamma))
    if stage.kind == "rdp":
        return lambda own: rdp_rows(edges, own, stage.alpha)
    return lambda own: diffusion_rows(edges, own, stage.alpha)


def _blocks(anchors: Places, n: int, rows: Callable[[Places], Rows]) -> Iterator[tuple[Places, Rows]]:
    """Anchors with their rows, as many at a time as fit in memory."""
    together = max(1, _NUMBERS // n)
    for start in range(0, len(anchors), together):
        part = anchors[start : start + together]
        yield part, rows(part)
