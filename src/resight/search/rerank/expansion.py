"""Query expansion and database-side augmentation: a vector becomes the mean of itself and its neighbours.

AQE: Chum et al., ICCV 2007 (there of bags of words, with verified neighbours only). αQE: Radenović, Tolias & Chum,
TPAMI 2019, §3.4. Database side (DBA): Turcot & Lowe, ICCV Workshops 2009; Arandjelović & Zisserman, CVPR 2012.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.artefact import load_artefact, save_artefact
from resight.errors import QueryError, RecipeError
from resight.features.multiscale import l2_normalise
from resight.search.ranking import Ranking
from resight.search.rerank.neighbours import knn
from resight.search.rerank.reranker import Database, best, check_query, first

KIND = "augmented-vectors"
_BLOCK = 1024  # vectors whose neighbours are gathered at a time


def aqe(query: NDArray[np.float32], vectors: NDArray[np.float32], top: NDArray[np.int64]) -> NDArray[np.float32]:
    """The mean of the query and its first results, ℓ2-normalised.

    query: (D,) or Q×D. vectors: N×D. top: (k,) or Q×k rows of the vectors. Returns the shape of the query.
    """
    return verified_qe(query, vectors, top, np.ones(top.shape))


def alpha_qe(
    query: NDArray[np.float32], vectors: NDArray[np.float32], top: NDArray[np.int64], alpha: float = 3.0
) -> NDArray[np.float32]:
    """As ``aqe`` with weights max(s, 0)^α by similarity s to the query, whose own weight is 1; α = 0 is ``aqe``."""
    if alpha < 0:
        raise RecipeError(f"alpha must not be below 0, not {alpha}")
    similarity = np.einsum("...kd,...d->...k", vectors[top], query).astype(np.float64)
    return verified_qe(query, vectors, top, np.maximum(similarity, 0) ** alpha)


def verified_qe(
    query: NDArray[np.float32], vectors: NDArray[np.float32], top: NDArray[np.int64], weights: ArrayLike
) -> NDArray[np.float32]:
    """As ``aqe`` with given weights beside the query's 1: a mask of the results that were verified, or their scores.

    weights: the shape of `top`, boolean or not below 0; else QueryError.
    """
    w = np.asarray(weights, np.float64)
    if w.shape != top.shape or not np.all(w >= 0):
        raise QueryError(f"weights must be {top.shape}, one a result, and none below 0; they are {w.shape}")
    return l2_normalise(query + np.einsum("...k,...kd->...d", w, vectors[top])).astype(np.float32)


def dba(vectors: NDArray[np.float32], k: int, alpha: float = 0.0) -> NDArray[np.float32]:
    """Every vector expanded by its k nearest others, with the weights of ``alpha_qe``; N×D → N×D.

    Compares all vectors with all, N²·D multiplications; memory beside the result is for k rows a vector.
    """
    neighbours, _ = knn(vectors, k)
    augmented = np.empty_like(vectors)
    for start in range(0, len(vectors), _BLOCK):
        part = slice(start, start + _BLOCK)
        augmented[part] = alpha_qe(vectors[part], vectors, neighbours[part], alpha)
    return augmented


def augmented(database: Database, k: int, alpha: float = 0.0) -> Database:
    """The database with ``dba`` of its vectors: made once, searched and re-ranked as the original."""
    return Database(database.ids, dba(database.vectors, k, alpha))


def save_augmented(path: str | Path, database: Database) -> None:
    """Write the vectors of ``augmented``; raises as ``save_artefact``."""
    save_artefact(path, KIND, {"vectors": database.vectors}, {"fitted_on": f"the {len(database):,} images themselves"})


def load_augmented(path: str | Path, database: Database) -> Database:
    """What ``save_augmented`` wrote, of the images of the database. Raises RecipeError as ``load_artefact``."""
    return Database(database.ids, load_artefact(path, KIND)[0]["vectors"])


@dataclass(frozen=True)
class QueryExpansion:
    """Ranks all images of the database by cosine to the expanded query; images the ranking did not hold can enter.

    k: first results of the ranking that join the query; 0 only re-scores, as on a database ``augmented`` since.
    alpha: of ``alpha_qe``; 0 for plain averages.
    """

    k: int = 10
    alpha: float = 3.0

    def __post_init__(self) -> None:
        if self.k < 0 or self.alpha < 0:
            raise RecipeError(f"k and alpha must not be below 0, not {self.k} and {self.alpha}")

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        check_query(query, database.dimension)
        top = database.rows(ranking.ids[: self.k])
        return _search(alpha_qe(query, database.vectors, top, self.alpha), ranking, database)


@dataclass(frozen=True)
class VerifiedExpansion:
    """As ``QueryExpansion`` with α = 0, by results that spatial verification confirmed: the ranking must hold evidence.

    inliers: as many at least confirm a result. k: the first k of the confirmed; without any the query stays as it is.
    """

    k: int = 50
    inliers: int = 20

    def __post_init__(self) -> None:
        if self.k < 1 or self.inliers < 0:
            raise RecipeError(f"k must be 1 or more and inliers not below 0, not {self.k} and {self.inliers}")

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        check_query(query, database.dimension)
        confirmed = [e is not None and e.inliers >= self.inliers for e in ranking.evidence]
        top = database.rows(ranking.ids[np.array(confirmed, bool)][: self.k])
        return _search(aqe(query, database.vectors, top), ranking, database)


def _search(query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
    return first(ranking, *best(database.ids, database.vectors @ query))
