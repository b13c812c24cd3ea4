"""Regional diffusion (Iscen et al., CVPR 2017, §4.2): over the regions of images, whose scores are pooled by image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from resight.artefact import load_artefact, save_artefact
from resight.embedding.gmp import gmp_weights
from resight.errors import RecipeError
from resight.search.ranking import Ranking
from resight.search.rerank.diffusion import Diffusion
from resight.search.rerank.reranker import Database, best, check_depth, check_queries, first

_KIND = "region-graph"
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


@dataclass(frozen=True, eq=False)
class RegionGraph:
    """What diffusion over the regions of all images needs, whatever the query: made once, as in the paper.

    normalised: R×R, S of the regions by ascending image id, those of one image as they lie. weights: (R,), that their
    scores are multiplied by before they are pooled.
    """

    normalised: csr_array
    weights: NDArray[np.float64]

    def save(self, path: str | Path) -> str:
        """Write the artefact and return its fingerprint; raises as ``save_artefact``."""
        s = self.normalised
        tensors: dict[str, NDArray[Any]] = {"indptr": s.indptr, "indices": s.indices, "data": s.data}
        tensors["weights"] = self.weights
        return save_artefact(path, _KIND, tensors, {"fitted_on": f"the {len(self.weights):,} regions that it ranks by"})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What ``save`` wrote. Raises RecipeError as ``load_artefact``."""
        t, _ = load_artefact(path, _KIND)
        size = len(t["weights"])
        return cls(csr_array((t["data"], t["indices"], t["indptr"]), shape=(size, size)), t["weights"])


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

    def graph(self, regions: Database) -> RegionGraph:
        """Time grows with the square of the regions, memory with regions × k."""
        order = np.argsort(regions.ids, kind="stable")
        return self._graph(regions.vectors[order], regions.ids[order])

    def _graph(self, vectors: NDArray[np.float32], ids: NDArray[np.int64]) -> RegionGraph:
        weights = gmp_by_image(vectors, ids) if self.pooling == "gmp" else np.ones(len(ids))
        return RegionGraph(self.diffusion.graph(vectors), weights)

    def rerank(
        self, query: NDArray[np.float32], ranking: Ranking, database: Database, made: RegionGraph | None = None
    ) -> Ranking:
        """made: the graph of all regions, for rankings of all images; the others' is made for the query."""
        queries = check_queries(query, database.dimension)
        rows = np.flatnonzero(np.isin(database.ids, ranking.ids[: check_depth(self.depth)]))
        rows = rows[np.argsort(database.ids[rows], kind="stable")]
        if len(rows) == len(database) and (np.diff(database.ids) >= 0).all():
            vectors, ids = database.vectors, database.ids
        else:
            vectors, ids = database.vectors[rows], database.ids[rows]
        if made is None or len(rows) < len(database):
            made = self._graph(vectors, ids)
        scores = self.diffusion.scores_on(made.normalised, queries, vectors) * made.weights
        images, pooled = pool_regions(scores, ids, "max" if self.pooling == "max" else "sum")
        reached = pooled > 0
        return first(ranking, *best(images[reached], pooled[reached]))
