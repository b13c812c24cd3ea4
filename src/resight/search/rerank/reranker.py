"""Re-ranking as Ranking → Ranking: what each method takes and gives, and several of them in a row (survey §5.2)."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import QueryError, RecipeError
from resight.search.ranking import Ranking

_BLOCK = 65_536  # vectors whose lengths are checked at a time
_SLACK = 1e-2  # of a length: vectors that were kept in half precision pass, those that were never normalised do not


@dataclass(frozen=True, eq=False)
class Database:
    """Vectors that a ranking's images have, from a collection or from any vector database; the top-k suffice.

    ids: (N,) int64, the image of each row, in any order. Several rows may be of one image, as its regions are; only
        regional diffusion takes such.
    vectors: N×D float32, ℓ2-normalised, or 0 for an image without a vector; may be memory-mapped.
    Raises QueryError where these do not fit.
    """

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.ids.dtype != np.int64 or self.vectors.dtype != np.float32:
            raise QueryError(f"ids must be int64 and vectors float32, not {self.ids.dtype} and {self.vectors.dtype}")
        if self.vectors.ndim != 2 or self.ids.shape != (len(self.vectors),):
            raise QueryError(f"vectors must be N×D with N ids, not {self.vectors.shape} with ids {self.ids.shape}")
        for start in range(0, len(self.ids), _BLOCK):
            _check_lengths(self.vectors[start : start + _BLOCK], "vectors")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """Of ids and vectors, as they lie, in hex (BLAKE2b)."""
        digest = hashlib.blake2b(f"{self.vectors.shape}".encode(), digest_size=32)
        digest.update(np.ascontiguousarray(self.ids).data)
        for start in range(0, len(self.ids), _BLOCK):
            digest.update(np.ascontiguousarray(self.vectors[start : start + _BLOCK]).data)
        return digest.hexdigest()

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.ids, kind="stable")

    @cached_property
    def one_row_an_image(self) -> bool:
        """Whether no image has several rows."""
        return not np.any(np.diff(self.ids[self._order]) == 0)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each image. Raises QueryError for an image without one and where images have several."""
        if not self.one_row_an_image:
            raise QueryError("ids names an image twice; give one vector an image, or use regional diffusion")
        if len(self) == 0 and len(ids):
            raise QueryError(f"no vector for image {ids[0]}; give the vectors of all images that are ranked")
        place = np.searchsorted(self.ids, ids, sorter=self._order)
        rows = self._order[np.minimum(place, len(self) - 1)]
        if np.any(missing := self.ids[rows] != ids):
            raise QueryError(f"no vector for image {ids[missing][0]}; give the vectors of all images that are ranked")
        return rows


class Reranker(Protocol):
    """Maps a ranking to a better one: parameters in its fields, so that one object serves all queries."""

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        """The ranking by other scores, with ties by image id, and the evidence of its images.

        query: (D,) float32, ℓ2-normalised; Q×D, several vectors of one query, for regional diffusion.
        ranking: by any earlier stage. database: the vectors of at least its images.
        The result is not calibrated, and its threshold accepts all. Raises QueryError for what does not fit.
        """
        ...


@dataclass(frozen=True)
class _Chain:
    stages: tuple[Reranker, ...]

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        for stage in self.stages:
            ranking = stage.rerank(query, ranking, database)
        return ranking


def compose(*stages: Reranker) -> Reranker:
    """One after another: each sees the query as it was and the ranking that the one before it made."""
    return _Chain(stages)


def initial_ranking(query: NDArray[np.float32], database: Database) -> Ranking:
    """All images of a database by cosine; what re-ranking starts from where no other search made a ranking."""
    check_query(query, database.dimension)
    order = np.argsort(database.ids)
    scores = (database.vectors @ query)[order]
    return first(_empty(), *best(database.ids[order], scores))


def check_query(query: NDArray[np.float32], dimension: int) -> None:
    """Raises QueryError unless the query is one ℓ2-normalised vector of this dimension."""
    if query.shape != (dimension,):
        raise QueryError(f"query must be one vector of {dimension} entries, not {query.shape}")
    _check_lengths(query[None], "query")


def check_queries(query: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """Q×D, of (D,) or Q×D. Raises QueryError unless these are ℓ2-normalised vectors of this dimension."""
    vectors = np.atleast_2d(query)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise QueryError(f"query must be vectors of {dimension} entries, not {query.shape}")
    _check_lengths(vectors, "query")
    return vectors


def head(ranking: Ranking, database: Database, depth: int | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The first `depth` images of a ranking (None for all), by ascending id, and their vectors."""
    ids = np.sort(ranking.ids[: check_depth(depth)])
    return ids, database.vectors[database.rows(ids)]


def check_depth(depth: int | None) -> int | None:
    """The depth itself. Raises RecipeError for one below 1."""
    if depth is not None and depth < 1:
        raise RecipeError(f"depth must be 1 image or more, or None for all, not {depth}")
    return depth


def best(ids: NDArray[np.int64], scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Images and their scores as float32, the highest first, ties by image id."""
    rounded = np.asarray(scores).astype(np.float32)
    order = np.lexsort((ids, -rounded))
    return ids[order], rounded[order]


def first(ranking: Ranking, ids: NDArray[np.int64], scores: NDArray[np.float32]) -> Ranking:
    """These images first, in this order, and the others of the ranking behind them, in theirs.

    The scores of the others are lowered to the least of `scores` where they lie above it.
    """
    others = ~np.isin(ranking.ids, ids)
    lowered = np.minimum(ranking.scores[others], scores.min(initial=np.inf))
    evidence = {i: e for i, e in zip(ranking.ids.tolist(), ranking.evidence, strict=True) if e is not None}
    order = np.concatenate([ids, ranking.ids[others]])
    known = tuple(map(evidence.get, order.tolist()))
    return Ranking(order, np.concatenate([scores, lowered]).astype(np.float32), known, -np.inf, calibrated=False)


def _empty() -> Ranking:
    return Ranking(np.empty(0, np.int64), np.empty(0, np.float32), (), -np.inf, calibrated=False)


def _check_lengths(vectors: NDArray[np.float32], name: str) -> None:
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    if not np.all((np.abs(lengths - 1) < _SLACK) | (lengths == 0)):  # so written, NaN fails too
        raise QueryError(f"{name} must be ℓ2-normalised: divide each vector by its length")
