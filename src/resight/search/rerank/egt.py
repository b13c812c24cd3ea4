"""Explore-exploit graph traversal, EGT (Chang, Yu, Liu & Volkovs, CVPR 2019): a query's results by a walk like Prim's.

Explore: the neighbours of the images just taken join the candidates, each with its heaviest edge from a taken one.
Exploit: the best candidate is taken, and further ones as long as they weigh more than a threshold. And again.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from resight.errors import RecipeError
from resight.search.ranking import Ranking
from resight.search.rerank.neighbours import knn_graph, nearest
from resight.search.rerank.reranker import Database, check_query, first, head


def explore_exploit(
    rows: NDArray[np.int64],
    weights: NDArray[np.float32],
    edges: csr_array,
    threshold: float,
    count: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nodes in the order they are taken, and the weight that each was taken by; (M,) both, of equal weights by row.

    rows, weights: (k,), the query's edges. edges: N×N, the database's; cosines, or numbers of inliers.
    threshold: above all weights the walk is greedy, one node at a time; below all it goes breadth first.
    count: nodes to take; None for all within reach.
    """
    count = edges.shape[0] if count is None else count
    taken: dict[int, float] = {}
    heaviest: dict[int, float] = {}
    heap: list[tuple[float, int]] = []

    def explore(found: NDArray[np.int64], by: NDArray[np.float64]) -> None:
        for node, weight in zip(found.tolist(), by.tolist(), strict=True):
            if node not in taken and weight > heaviest.get(node, -np.inf):
                heaviest[node] = weight
                heapq.heappush(heap, (-weight, node))  # a lighter entry of the node stays behind and is passed over

    explore(rows, weights.astype(np.float64))
    while heap and len(taken) < count:
        fresh: list[int] = []
        while heap and len(taken) < count and (not fresh or -heap[0][0] > threshold):
            weight, node = heapq.heappop(heap)
            if node not in taken:
                taken[node] = -weight
                fresh.append(node)
        for node in fresh:
            out = slice(edges.indptr[node], edges.indptr[node + 1])
            explore(edges.indices[out], edges.data[out])
    return np.array(list(taken), np.int64), np.array(list(taken.values()), np.float64)


@dataclass(frozen=True)
class ExploreExploit:
    """EGT over the first `depth` images of the ranking (None for all), on the kNN graph of these by cosine.

    threshold: cosine above which a candidate is taken at once; it depends on the descriptor, so there is no default.
    A score is the least weight on the way so far, since scores must not rise along a ranking. Images out of reach keep
    their order behind the others.
    """

    threshold: float
    depth: int | None = 1000
    k: int = 50

    def __post_init__(self) -> None:
        if self.k < 1:
            raise RecipeError(f"k must be 1 neighbour or more, not {self.k}")

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        check_query(query, database.dimension)
        ids, vectors = head(ranking, database, self.depth)
        rows, weights = nearest(query[None], vectors, self.k)
        order, by = explore_exploit(rows[0], weights[0], knn_graph(vectors, self.k), self.threshold)
        return first(ranking, ids[order], np.minimum.accumulate(by).astype(np.float32))
