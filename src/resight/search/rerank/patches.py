"""Patch-wise search: a query vector against every region of an image, so that the object is found with its box.

What a whole picture's vector drowns, one of its regions shows: an image is as similar as its most similar region
(Razavian et al., CVPR Workshops 2014, "spatial search", with one query patch).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.errors import QueryError, RecipeError
from resight.hashing.function import HashFunction
from resight.hashing.region_similarity import region_similarity
from resight.search.ranking import Evidence, Ranking
from resight.search.rerank.reranker import Database, best, check_depth, check_query, first

_BLOCK = 65_536  # regions compared at a time: `vectors` may be memory-mapped


@dataclass(frozen=True, eq=False)
class Regions:
    """R regions of any images, in any order.

    ids: (R,) int64, the image of each. boxes: R×4 float32, (x1, y1, x2, y2) in pixels of its upright original.
    vectors: R×D float32, ℓ2-normalised; may be memory-mapped.
    Raises QueryError where these do not fit, or for a box that is empty or not finite.
    """

    ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        Database(self.ids, self.vectors)  # which checks them
        if self.boxes.shape != (len(self.ids), 4):
            raise QueryError(f"boxes must be R×4, one for each of {len(self.ids)} regions, not {self.boxes.shape}")
        bad = ~(np.isfinite(self.boxes).all(axis=1) & (self.boxes[:, :2] < self.boxes[:, 2:]).all(axis=1))
        if bad.any():
            row = int(np.argmax(bad))
            raise QueryError(
                f"boxes: {self.boxes[row].tolist()}, of image {self.ids[row]}, is empty; give x1 < x2 and y1 < y2"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """The images that have regions, ascending."""
        return np.unique(self.ids)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.ids, kind="stable")

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Where in `_order` each image's regions begin, and where the last one's end."""
        return np.append(np.searchsorted(self.ids, self.images, sorter=self._order), len(self))

    def rows_of(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of these images' regions, image by image, each's in their order. QueryError where one has none."""
        if np.any(missing := ~np.isin(images, self.images)):
            raise QueryError(
                f"no region for image {images[missing][0]}; give every image one at least, such as its whole"
            )
        at = np.searchsorted(self.images, images)
        begins, counts = self._starts[at], np.diff(self._starts)[at]
        ends = np.cumsum(counts)
        places = np.arange(counts.sum()) + np.repeat(begins - ends + counts, counts)
        return np.asarray(self._order[places])


@dataclass(frozen=True, eq=False)
class Found:
    """The best region of M images. images: (M,) int64, ascending. scores: (M,) float32. rows: (M,) of the regions."""

    images: NDArray[np.int64]
    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


Compare = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]]


def best_regions(
    query: NDArray[np.float32],
    regions: Regions,
    images: NDArray[np.int64] | None = None,
    compare: Compare | None = None,
) -> Found:
    """The region of each image that is most similar to a (D,) query, of equal ones the earliest row.

    images: of any order, None for all. compare: of a query and (R,) rows, how similar these are; by default the cosine.
    Raises QueryError for a query that does not fit or an image without regions.
    """
    check_query(query, int(regions.vectors.shape[1]))
    rows = regions._order if images is None else regions.rows_of(np.sort(images))
    if len(rows) == 0:
        return Found(np.empty(0, np.int64), np.empty(0, np.float32), rows)
    parts = (rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK))
    scores = np.concatenate([compare(query, p) if compare else regions.vectors[p] @ query for p in parts])
    found, starts = np.unique(regions.ids[rows], return_index=True)
    highest = np.maximum.reduceat(scores, starts)
    reached = np.flatnonzero(scores == np.repeat(highest, np.diff(starts, append=len(rows))))
    return Found(found, highest, rows[reached[np.searchsorted(reached, starts)]])


def search_regions(query: NDArray[np.float32], regions: Regions, top: int | None = None) -> Ranking:
    """All images that have regions (or the first `top`) by their best region to a (D,) query, ties by image id.

    The evidence has the region as its box and outline, and no inliers: it shows where, and verifies nothing.
    """
    nothing = Ranking(np.empty(0, np.int64), np.empty(0, np.float32), (), -np.inf, calibrated=False)
    return ranked(nothing, best_regions(query, regions), regions, top)


@dataclass(frozen=True, eq=False)
class RegionCodes:
    """Codes of regions, R×B/8, in the order of their rows, by which they are compared (Song et al., AAAI 2018)."""

    function: HashFunction
    codes: NDArray[np.uint8]

    @classmethod
    def of(cls, function: HashFunction, regions: Regions) -> Self:
        """Raises RecipeError for a function of vectors of another length."""
        if function.dimension != regions.vectors.shape[1]:
            raise RecipeError(
                f"the hash function of [[rerank]] patches hashes {function.dimension} entries, and regions have "
                f"{regions.vectors.shape[1]}: learn one from a collection of this recipe with `resight hash fit`"
            )
        parts = [function.encode(regions.vectors[i : i + _BLOCK]) for i in range(0, len(regions), _BLOCK)]
        return cls(function, np.concatenate([np.empty((0, function.bits // 8), np.uint8), *parts]))

    def similarity(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """1 − 2h/B of a (D,) query and some rows, (R,), whose codes differ from its own in h of B bits."""
        each = np.arange(len(rows) + 1)  # every region an image of its own, so that it is known which was best
        shares = region_similarity(self.function.encode(query[None]), self.codes[rows], each)
        return 2 * shares - 1


@dataclass(frozen=True, eq=False)
class PatchReranker:
    """Re-orders the first `depth` images (None for all) by their most similar region.

    weight: of the region in weight·⟨q, region⟩ + (1 − weight)·⟨q, whole⟩, the whole being the image's row of the
        database; at 1, the default, the database is not looked at.
    codes: compared in place of the regions' vectors, where there are any; ⟨q, region⟩ is then of their ±1, over B.
    The evidence as in ``search_regions``, but for images that spatial verification gave a box: these keep theirs.
    Raises RecipeError for values out of range, and on re-ranking QueryError for an image without regions.
    """

    regions: Regions
    depth: int | None = 100
    weight: float = 1.0
    codes: RegionCodes | None = None

    def __post_init__(self) -> None:
        check_depth(self.depth)
        if not 0 <= self.weight <= 1:
            raise RecipeError(f"weight must be within 0 and 1, not {self.weight}")

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        compare = None if self.codes is None else self.codes.similarity
        found = best_regions(query, self.regions, ranking.ids[: self.depth], compare)
        if self.weight < 1:
            whole = database.vectors[database.rows(found.images)] @ query
            found = replace(found, scores=self.weight * found.scores + (1 - self.weight) * whole)
        return ranked(ranking, found, self.regions)


def ranked(ranking: Ranking, found: Found, regions: Regions, top: int | None = None) -> Ranking:
    """A ranking with images that were found first, by their scores, and the region of each as its box."""
    merged = first(ranking, *best(found.images, found.scores))
    merged = merged if top is None else merged.top(top)
    row = dict(zip(found.images.tolist(), found.rows.tolist(), strict=True))
    evidence = tuple(
        _located(known, regions.boxes[row[image]]) if image in row else known
        for image, known in zip(merged.ids.tolist(), merged.evidence, strict=True)
    )
    return replace(merged, evidence=evidence)


def _located(known: Evidence | None, box: NDArray[np.float32]) -> Evidence:
    """Evidence with the region's box, unless it has a box of its own."""
    if known is not None and known.box is not None:
        return known
    x1, y1, x2, y2 = box.tolist()
    outline = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)
    none = np.empty((0, 2), np.float32)
    return replace(known or Evidence(0, 0, None, None, None, none, none), outline=outline, box=(x1, y1, x2, y2))
