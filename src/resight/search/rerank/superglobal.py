"""SuperGlobal's re-ranking by refined global vectors (Shao et al., ICCV 2023, §3.3), as their published code does it.

1. Each of the first M images becomes the weighted mean of itself, with weight 1, and its K nearest among the M, with
   weight β·s by similarity s. 2. S₁ is the query's product with these. 3. The query becomes the element-wise maximum of
the first K + 1 of them by S₁, itself not among them; S₂ is its product with them. The images are ranked by
(S₁ + S₂)/2. As in the code, neither refined vectors nor the new query are normalised again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.search.ranking import Ranking
from resight.search.rerank.neighbours import knn
from resight.search.rerank.reranker import Database, best, check_query, first, head


def refine(vectors: NDArray[np.float32], k: int = 9, beta: float = 0.15) -> NDArray[np.float64]:
    """Step 1 of M×D vectors, M×D."""
    rows, similarity = knn(vectors, k)
    weights = beta * similarity.astype(np.float64)
    total = vectors + np.einsum("mk,mkd->md", weights, vectors[rows])
    return np.asarray(total / (1 + weights.sum(axis=1, keepdims=True)))


def super_global(
    query: NDArray[np.float32], vectors: NDArray[np.float32], k: int = 9, beta: float = 0.15
) -> NDArray[np.float64]:
    """(S₁ + S₂)/2 of a (D,) query and the M×D vectors of its first results, (M,).

    RecipeError for k below 1 or beta below 0. Of equal S₁ the earlier rows enter the maximum.
    """
    if k < 1 or beta < 0:
        raise RecipeError(f"k must be 1 or more and beta not below 0, not {k} and {beta}")
    if len(vectors) == 0:
        return np.empty(0)
    refined = refine(vectors, k, beta)
    scores = refined @ query
    expanded = refined[np.argsort(-scores, kind="stable")[: k + 1]].max(axis=0)
    return np.asarray((scores + refined @ expanded) / 2)


@dataclass(frozen=True)
class SuperGlobal:
    """Re-orders the first `depth` images of the ranking. Defaults are the published ones."""

    depth: int = 400
    k: int = 9
    beta: float = 0.15

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        check_query(query, database.dimension)
        ids, vectors = head(ranking, database, self.depth)
        return first(ranking, *best(ids, super_global(query, vectors, self.k, self.beta)))
