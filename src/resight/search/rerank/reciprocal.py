"""k-reciprocal encoding (Zhong, Zheng, Cao & Li, CVPR 2017): images are alike that have the same reciprocal neighbours.

Of the query and the images together, N(p, k) are p and its k nearest, R(p, k) = {g ∈ N(p, k): p ∈ N(g, k)}, and R* adds
to R(p, k1) the R(q, k1/2) of its members q of which R(p, k1) holds two thirds or more. V_p[g] = exp(−d(p, g)) for g in
R*(p, k1), averaged over N(p, k2); the final distance is (1 − λ)(1 − Σ min(V_p, V_g) / Σ max(V_p, V_g)) + λ d(p, g).
d is the squared distance 2 − 2 cos. The published code also scales d by its maximum and V_p to sum 1, which is not in
the paper nor here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from resight.errors import RecipeError
from resight.search.ranking import Ranking
from resight.search.rerank.neighbours import knn
from resight.search.rerank.reranker import Database, best, check_query, first, head


def k_reciprocal_distances(
    query: NDArray[np.float32], vectors: NDArray[np.float32], k1: int = 20, k2: int = 6, weight: float = 0.3
) -> NDArray[np.float64]:
    """The final distance of a (D,) query to each of N×D vectors, (N,) in [0, 4].

    k1, k2, weight: k1, k2 and λ of the paper, k2 counting the image itself. RecipeError for values out of range.
    """
    if k1 < 1 or not 1 <= k2 <= k1 + 1 or not 0 <= weight <= 1:
        raise RecipeError(f"k1 ≥ 1, 1 ≤ k2 ≤ k1 + 1 and 0 ≤ weight ≤ 1 are needed, not {k1}, {k2} and {weight}")
    both = np.concatenate([query[None], vectors])
    others, _ = knn(both, k1)
    lists = np.column_stack([np.arange(len(both)), others])
    members = _expanded(_reciprocal(lists), _reciprocal(lists[:, : k1 // 2 + 1]))
    row, column = np.repeat(np.arange(len(both)), np.diff(members.indptr)), members.indices
    members.data = np.exp(-_distance(np.einsum("ed,ed->e", both[row], both[column])))
    averaged = csr_array(_lists_matrix(lists[:, :k2]) @ members) / min(k2, lists.shape[1])
    jaccard = _jaccard(averaged)[1:]
    return (1 - weight) * jaccard + weight * _distance(vectors @ query)


def _distance(cosine: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.maximum(0, 2 - 2 * cosine.astype(np.float64))


def _lists_matrix(lists: NDArray[np.int64]) -> csr_array:
    """N×N with a 1 at (i, j) for each j in list i."""
    n, k = lists.shape
    return csr_array((np.ones(n * k), lists.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def _reciprocal(lists: NDArray[np.int64]) -> csr_array:
    forward = _lists_matrix(lists)
    return csr_array(forward.multiply(forward.T))


def _expanded(wide: csr_array, narrow: csr_array) -> csr_array:
    """R*, from R(·, k1) and R(·, k1/2)."""
    overlap = csr_array(wide @ narrow.T).multiply(wide).tocoo()  # |R(p, k1) ∩ R(q, k1/2)| for q in R(p, k1)
    size = np.diff(narrow.indptr)
    joins = 3 * overlap.data >= 2 * size[overlap.col]
    joined = csr_array((overlap.data[joins], (overlap.row[joins], overlap.col[joins])), shape=wide.shape)
    union = csr_array(wide + joined @ narrow)
    union.sort_indices()
    return union


def _jaccard(v: csr_array) -> NDArray[np.float64]:
    """1 − Σ min(V_0, V_g) / Σ max(V_0, V_g) for every g."""
    asked = v[[0]].toarray()[0]
    least = csr_array((np.minimum(v.data, asked[v.indices]), v.indices, v.indptr), shape=v.shape).sum(axis=1)
    total = v.sum(axis=1)
    return np.asarray(1 - least / (total + total[0] - least))  # min + max is the sum


@dataclass(frozen=True)
class KReciprocal:
    """Re-orders the first `depth` images of the ranking, None for all; a score is minus the final distance."""

    depth: int | None = 1000
    k1: int = 20
    k2: int = 6
    weight: float = 0.3

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        check_query(query, database.dimension)
        ids, vectors = head(ranking, database, self.depth)
        distances = k_reciprocal_distances(query, vectors, self.k1, self.k2, self.weight)
        return first(ranking, *best(ids, -distances))
