"""The images nearest to a query by their global descriptors: candidates from an engine, compared exactly.

An engine may lag behind the collection: images that are newer than it are compared one by one, and what it says of
removed ones is dropped. So what is found depends on the collection alone, up to the candidates that an engine misses.
"""

import math
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from resight.search.filters import spanned_vectors
from resight.store.log import LogReader
from resight.store.store import Snapshot
from resight.store.vector_index import VectorEngine

FEW = 1 << 14
"""Images that are compared one by one without asking the engine: for fewer, an index saves nothing worth having."""

_SWIG: Any = faiss  # whose type stubs do not name all that is there
_SHARE = 4  # the part of an engine's images above which comparing all of them is no dearer than asking it
_BLOCK = 1 << 16  # vectors compared at a time


class Nearest:
    """Searches the images of a snapshot. dimension: of their descriptors. engine: None to compare all of them."""

    def __init__(self, snapshot: Snapshot, log: LogReader, dimension: int, engine: VectorEngine | None) -> None:
        self._snapshot, self._log, self._dimension, self._engine = snapshot, log, dimension, engine
        self._have = np.flatnonzero(snapshot.vectors_at >= 0)
        newest = -1 if engine is None else engine.newest
        self._fresh = self._have[snapshot.ids[self._have] > newest]
        places = snapshot.vectors_at // (4 * dimension)
        end = int(places.max(initial=-1)) + 1
        self._places = np.append(places, -1)  # by position, −1 for none
        self._vectors = log.record(0, 4 * dimension * end).view("<f4").reshape(end, dimension)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and cosines of the k nearest images to each of Q×D ℓ2-normalised queries, the best first.

        Q×k int64 and float32; −1 and −inf where there are fewer. Ties by image id.
        """
        old, engine = len(self._have) - len(self._fresh), self._engine
        if engine is None or old <= FEW:
            return self.exact(queries, k)
        parts = [self._scan(queries, self._fresh, k)] if len(self._fresh) else []
        asked = math.ceil(k * engine.choice.depth * len(engine) / old)
        self._log.check()
        while True:
            if asked * _SHARE >= len(engine):
                return self.exact(queries, k)
            ids = engine.candidates(queries, asked)
            found = self._snapshot.positions(ids.ravel()).reshape(ids.shape)
            short = (found >= 0).sum(axis=1) < min(k, old)
            if np.any(short & (ids >= 0).all(axis=1)):
                asked *= 2  # most of what it found is not among these images
                continue
            positions, cosines = _best([*parts, self._refined(queries, found)], k)
            if short.any():  # it knows of no more, as where few cells are visited
                positions[short], cosines[short] = self.exact(queries[short], k)
            return positions, cosines

    def exact(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As ``search``, by comparing all images."""
        return self._scan(queries, self._have, k)

    def _refined(
        self, queries: NDArray[np.float32], found: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Cosines of Q×C candidates, read from where they lie."""
        places = self._places[found]
        cosines = np.full(found.shape, -np.inf, np.float32)  # which those without a place keep
        asked = np.ascontiguousarray(queries, np.float32)
        _SWIG.fvec_inner_products_by_idx(
            _SWIG.swig_ptr(cosines),
            _SWIG.swig_ptr(asked),
            _SWIG.swig_ptr(self._vectors),
            _SWIG.swig_ptr(places),
            self._dimension,
            len(asked),
            found.shape[1],
        )
        return found, cosines

    def _scan(
        self, queries: NDArray[np.float32], rows: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best of some positions by comparing all; a block at a time, so that memory is bounded."""
        nothing = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        best = _best([nothing], k)
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            span, own = spanned_vectors(self._snapshot, self._log, part, self._dimension)
            if len(span) > len(part):
                span = span[own]
            best = _best([best, _of_block(queries, span, part, k)], k)
        return best


def _of_block(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], positions: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best of N vectors, N×D, whose positions are given, or all; the lowest positions of those that tie."""
    wanted = min(k + 1, len(vectors))
    cosines, rows = faiss.knn(np.ascontiguousarray(queries), vectors, wanted, metric=faiss.METRIC_INNER_PRODUCT)
    found = positions[rows]
    if wanted <= k:
        return found, cosines
    for tied in np.flatnonzero(cosines[:, k - 1] == cosines[:, k]):  # faiss keeps any of them
        every = vectors @ queries[tied]
        best = _first(positions, every, k)
        found[tied, :k], cosines[tied, :k] = positions[best], every[best]
    return found[:, :k], cosines[:, :k]


def _best(
    parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k best of several Q×C lists of positions and cosines."""
    positions = np.concatenate([part[0] for part in parts], axis=1)
    cosines = np.concatenate([part[1] for part in parts], axis=1)
    if positions.shape[1] < k:
        lack = ((0, 0), (0, k - positions.shape[1]))
        positions = np.pad(positions, lack, constant_values=-1)
        cosines = np.pad(cosines, lack, constant_values=-np.inf)
    # One whole number each, the cosine's bits so turned that less is nearer, and then the position: sorting these is
    # many times as fast as sorting by two keys.
    bits = (cosines + np.float32(0)).view(np.uint32)  # −0 becomes 0
    nearer = np.where(bits >> np.uint32(31), bits, ~bits & np.uint32(0x7FFFFFFF))
    keys = nearer.astype(np.uint64) << np.uint64(32) | positions.astype(np.uint32)
    keys = np.sort(np.partition(keys, k - 1, axis=1)[:, :k], axis=1)
    nearer = (keys >> np.uint64(32)).astype(np.uint32)
    found = np.where(nearer >> np.uint32(31), nearer, ~nearer & np.uint32(0x7FFFFFFF)).view(np.float32)
    return keys.astype(np.uint32).view(np.int32).astype(np.int64), found


def _first(positions: NDArray[np.int64], cosines: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Where the k best of N are, the best first. Sorts only those that are not below the k-th, so ties stay exact."""
    least = np.partition(cosines, len(cosines) - k)[len(cosines) - k]
    kept = np.flatnonzero(cosines >= least)
    return kept[np.lexsort((positions[kept], -cosines[kept]))[:k]]
