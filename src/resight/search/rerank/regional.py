"""Regional diffusion (Iscen et al., CVPR 2017, §4.2): over the regions of images, whose scores are pooled by image."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resight.embedding.gmp import gmp_weights
from resight.errors import RecipeError
from resight.search.ranking import Ranking
from resight.search.rerank.diffusion import Diffusion
from resight.search.rerank.reranker import Database, best, check_depth, check_queries, first

_PUBLISHED = Diffusion(k=200, sources=200)


def pool_regions(
    scores: NDArray[np.float64], ids: NDArray[np.int64], pooling: Literal["max", "sum"]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Images, ascending, and the largest or the sum of their regions' scores; scores and ids are (R,)."""
    images, image = np.unique(ids, return_inverse=True)
    pooled = np.full(len(images), 0.0 if pooling == "sum" else -np.inf)
    (np.add if pooling == "sum" else np.maximum).at(pooled, image, scores)
    return images, pooled


def gmp_by_image(vectors: NDArray[np.float32], ids: NDArray[np.int64], ridge: float = 1.0) -> NDArray[np.float64]:
    """``gmp_weights`` of each image's regions among themselves, (R,).

    vectors: R×D regions. ids: (R,). ridge: λ, 1 in the published code.
    """
    weights = np.empty(len(ids))
    order = np.argsort(ids, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1):
        weights[rows] = gmp_weights(vectors[rows], ridge)
    return weights


@dataclass(frozen=True)
class RegionalDiffusion:
    """Diffusion over all regions of the ranking's first images.

    The query may be several vectors, and the database must hold each image's regions as rows with its id.
    depth: images, None for all. pooling: ``max``, ``sum``, or ``gmp``, the paper's: the sum by
        ``gmp_by_image``.
    diffusion: over the regions, of which its own depth takes none away; the defaults are the published ones.
    """

    depth: int | None = None
    pooling: Literal["max", "sum", "gmp"] = "gmp"
    diffusion: Diffusion = _PUBLISHED

    def __post_init__(self) -> None:
        if self.pooling not in ("max", "sum", "gmp"):
            raise RecipeError(f"pooling must be 'max', 'sum' or 'gmp', not {self.pooling!r}")

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        queries = check_queries(query, database.dimension)
        rows = np.flatnonzero(np.isin(database.ids, ranking.ids[: check_depth(self.depth)]))
        rows = rows[np.argsort(database.ids[rows], kind="stable")]
        vectors, ids = database.vectors[rows], database.ids[rows]
        scores = self.diffusion.scores(queries, vectors)
        if self.pooling == "gmp":
            scores = scores * gmp_by_image(vectors, ids)
        images, pooled = pool_regions(scores, ids, "max" if self.pooling == "max" else "sum")
        reached = pooled > 0
        return first(ranking, *best(images[reached], pooled[reached]))
