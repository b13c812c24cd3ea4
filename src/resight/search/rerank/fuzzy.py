"""Re-ranking by fuzzy objects matching, FOM: a query against the few objects that stand for an image's regions."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.local.fuzzy import FuzzyObjects
from resight.search.ranking import Ranking
from resight.search.rerank.patches import Found, Regions, ranked
from resight.search.rerank.reranker import Database, check_depth, check_queries


@dataclass(frozen=True, eq=False)
class FuzzyReranker:
    """Re-orders the first `depth` images (None for all) by their fuzzy objects, made when an image first comes.

    objects, sparsity, seed: as ``FuzzyObjects.of`` takes them.
    The query may be several vectors, whose similarities are averaged. The evidence has the region that is most similar
    by way of the objects as its box, as ``PatchReranker``'s.
    """

    regions: Regions
    depth: int | None = 100
    objects: int = 10
    sparsity: int = 3
    seed: int = 0
    _made: dict[int, tuple[NDArray[np.int64], FuzzyObjects]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_depth(self.depth)
        if self.objects < 1 or self.sparsity < 1:
            raise RecipeError(f"objects and sparsity must be 1 or more, not {self.objects} and {self.sparsity}")

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        queries = check_queries(query, int(self.regions.vectors.shape[1]))
        images = np.sort(ranking.ids[: self.depth])
        scores, rows = np.empty(len(images), np.float32), np.empty(len(images), np.int64)
        for place, image in enumerate(images.tolist()):
            own, fuzzy = self._of(image)
            like = fuzzy.scores(queries)
            scores[place] = like.max(axis=1).mean()
            rows[place] = own[int(like.sum(axis=0).argmax())]
        return ranked(ranking, Found(images, scores, rows), self.regions)

    def _of(self, image: int) -> tuple[NDArray[np.int64], FuzzyObjects]:
        """Rows of an image's regions, and what stands for them."""
        if image not in self._made:
            rows = self.regions.rows_of(np.array([image]))
            vectors = self.regions.vectors[rows]
            self._made[image] = rows, FuzzyObjects.of(vectors, self.objects, sparsity=self.sparsity, seed=self.seed)
        return self._made[image]
