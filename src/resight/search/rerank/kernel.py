"""Re-ranking by a match kernel in full: SMK, ASMK, R-ASMK or the dynamic match kernel, over the first results.

A filter over an inverted file keeps a binary code a word and asks all images (``resight.local.word_filter``). Over a
few hundred the kernels themselves can be asked, of descriptors as they are kept (survey §4.2.2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resight.describe.description import Description
from resight.embedding.codebook import Codebook
from resight.geometry.regions import rigid_grid
from resight.local.asmk import Encoding, encode_assigned
from resight.local.dynamic_match import dynamic_similarity, hamming_threshold
from resight.local.kernels import Words, WordVectors, asmk, assigned, similarity, smk
from resight.local.regional_asmk import inside, regional_asmk
from resight.recipes.rerank_stages import KernelStage
from resight.search.examples import DescribedExample, mean_similarity
from resight.search.ranking import Ranking
from resight.search.rerank.matching import features_of
from resight.search.rerank.reranker import Database, best, first


def represented(
    description: Description, stage: KernelStage, codebook: Codebook, words: Words, *, query: bool
) -> WordVectors:
    """A picture as SMK, ASMK or R-ASMK has it; a query has no regions. words: of its descriptors."""
    features = features_of(description)
    descriptors = features.descriptors.astype(np.float32)
    if stage.kernel == "smk":
        return smk(descriptors, codebook, words)
    if stage.kernel == "asmk" or query:
        return asmk(descriptors, codebook, words)
    regions = inside(features.xy, rigid_grid(*description.size, stage.levels, whole=True))
    return regional_asmk(descriptors, regions, codebook, words)


def encoded(description: Description, codebook: Codebook, words: Words) -> Encoding:
    """A picture as the dynamic match kernel has it: ASMK's codes."""
    descriptors = features_of(description).descriptors.astype(np.float32)
    return encode_assigned(descriptors, assigned(descriptors, codebook, words), codebook)


@dataclass(frozen=True, eq=False)
class KernelReranker:
    """Re-orders the first images of a ranking by the kernel of a stage.

    database, descriptions: vectors and local features of its images. words: of these by image id, N int32, −1 for
        none, where they are kept; else they are assigned anew.
    """

    stage: KernelStage
    codebook: Codebook
    database: Database
    descriptions: Mapping[int, Description]
    words: Callable[[int], NDArray[np.int32]] | None = None

    def rerank(self, examples: Sequence[DescribedExample], ranking: Ranking) -> Ranking:
        """Of several examples the weighted mean, as ``mean_similarity`` has it. QueryError without local features."""
        ids = ranking.ids[: self.stage.depth]
        measure = self._dynamic if self.stage.kernel == "dynamic" else self._selective
        each = [measure(example.description, ids) for example in examples]
        return first(ranking, *best(ids, mean_similarity(each, [example.weight for example in examples])))

    def _selective(self, query: Description, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        stage = self.stage
        asked = represented(query, stage, self.codebook, stage.query_assignments, query=True)
        return self._each(
            ids,
            lambda image, _: similarity(
                asked,
                represented(self.descriptions[image], stage, self.codebook, self._words(image), query=False),
                alpha=stage.alpha,
                threshold=stage.threshold,
            ),
        )

    def _dynamic(self, query: Description, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """τ is by the query's own vector; one without counts as far from all."""
        vector = query.global_descriptor
        cosine = np.full(len(ids), -1.0)
        if vector is not None:
            cosine = (self.database.vectors[self.database.rows(ids)] @ vector).astype(float)
        distance = np.sqrt(np.maximum(0, 2 - 2 * cosine))
        limits = hamming_threshold(
            distance, self.codebook.dimension, fraction=self.stage.fraction, decay=self.stage.decay
        )
        asked = encoded(query, self.codebook, self.stage.query_assignments)
        return self._each(
            ids,
            lambda image, place: dynamic_similarity(
                asked, encoded(self.descriptions[image], self.codebook, self._words(image)), int(limits[place])
            ),
        )

    def _words(self, image: int) -> Words:
        return 1 if self.words is None else self.words(image).astype(np.int64)[:, np.newaxis]

    @staticmethod
    def _each(ids: NDArray[np.int64], measure: Callable[[int, int], float]) -> NDArray[np.float64]:
        return np.array([measure(image, place) for place, image in enumerate(ids.tolist())])
