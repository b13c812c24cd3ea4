"""An inverted file over sparse rows: exact inner products with a query's words only (Sivic & Zisserman, ICCV 2003)."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, vstack

from resight.errors import CollectionError
from resight.parsing import load_array

_FILES: dict[str, type[np.generic]] = {"size": np.int64, "offsets": np.int64, "rows": np.int32, "weights": np.float32}


@dataclass(frozen=True, eq=False)
class _Segment:
    """Rows by word: those of word w are rows[offsets[w]:offsets[w+1]], ascending, and their weights beside them."""

    first: int
    size: int
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, first: int, rows: csr_array) -> Self:
        columns = csc_array(rows)
        columns.sort_indices()
        return cls(
            first,
            int(rows.shape[0]),
            columns.indptr.astype(np.int64),
            columns.indices.astype(np.int32),
            columns.data.astype(np.float32),
        )

    def columns(self) -> csc_array:
        return csc_array((self.weights, self.rows, self.offsets), shape=(self.size, len(self.offsets) - 1))

    def scores(self, words: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """The inner product of each row with the query; (size,)."""
        starts = self.offsets[words]
        counts = self.offsets[words + 1] - starts
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        postings = np.arange(total) + np.repeat(starts - ends + counts, counts)
        products = self.weights[postings] * np.repeat(weights, counts).astype(np.float64)
        return np.asarray(np.bincount(self.rows[postings], weights=products, minlength=self.size), np.float64)


class SparseIndex:
    """Rows over W words, found by inner product: the cosine, for rows as ``Bow.transform_sparse`` makes them.

    A row's id is its place in the order of adding, from 0. Memory is 8 bytes a non-zero and 8 a word. Rows are kept in
    segments, each more than twice as large as the next, which are merged as rows are added.
    """

    def __init__(self, words: int) -> None:
        self.words = words
        self._segments: list[_Segment] = []

    def __len__(self) -> int:
        return sum(segment.size for segment in self._segments)

    def add(self, rows: csr_array) -> None:
        """Add n×W rows. Raises ValueError for another W, or values that are not finite."""
        rows = self._checked(rows)
        if rows.shape[0] == 0:
            return
        self._segments.append(_Segment.of(len(self), rows))
        while len(self._segments) > 1 and self._segments[-2].size <= 2 * self._segments[-1].size:
            self._merge(2)

    def search(self, queries: csr_array, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k rows of the largest inner product with each of Q×W queries: ids and scores, Q×min(k, len(self)).

        By falling score, ties by id. Raises as ``add``, and ValueError for k below 1.
        """
        queries = self._checked(queries)
        if k < 1:
            raise ValueError(f"k must be 1 or more, not {k}")
        k = min(k, len(self))
        ids = np.empty((queries.shape[0], k), np.int64)
        found = np.empty((queries.shape[0], k), np.float32)
        for number in range(queries.shape[0]):
            own = slice(queries.indptr[number], queries.indptr[number + 1])
            words, weights = queries.indices[own].astype(np.int64), queries.data[own]
            parts = [segment.scores(words, weights) for segment in self._segments]
            scores = np.concatenate([np.empty(0), *parts]).astype(np.float32)
            ids[number] = _best(scores, k)
            found[number] = scores[ids[number]]
        return ids, found

    def save(self, folder: str | Path) -> None:
        """Write a new folder of .npy arrays, whole or not at all. Raises CollectionError where that fails."""
        folder = Path(folder)
        if folder.exists():
            raise CollectionError(f"{folder}: exists already; give a new folder")
        if len(self._segments) > 1:
            self._merge(len(self._segments))
        held = self._segments[0] if self._segments else _Segment.of(0, csr_array((0, self.words), dtype=np.float32))
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            temporary.mkdir()
            for name, kind in _FILES.items():
                with (temporary / f"{name}.npy").open("wb") as file:
                    np.save(file, np.atleast_1d(np.asarray(getattr(held, name), kind)), allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
            temporary.rename(folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CollectionError(f"{folder}: cannot be written: {error.strerror or error}") from error

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Memory-map what ``save`` wrote. Raises CollectionError where it is missing or damaged.

        Only sizes and the offsets are checked, as reading all would defeat the mapping.
        """
        folder = Path(folder)
        try:
            arrays = {name: _mapped(folder / f"{name}.npy", kind) for name, kind in _FILES.items()}
        except (OSError, ValueError, EOFError) as error:
            raise CollectionError(f"{folder}: not a readable sparse index: {error}; make it again") from error
        size, offsets, rows, weights = arrays.values()
        fits = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == len(rows) == len(weights)
        if size.shape != (1,) or not fits or (np.diff(offsets) < 0).any():
            raise CollectionError(f"{folder}: its arrays do not fit each other; make it again")
        index = cls(len(offsets) - 1)
        if size[0] > 0:
            index._segments.append(_Segment(0, int(size[0]), offsets, rows, weights))
        return index

    def _merge(self, last: int) -> None:
        parts = self._segments[-last:]
        rows = csr_array(vstack([part.columns() for part in parts], format="csr"))
        self._segments[-last:] = [_Segment.of(parts[0].first, rows)]

    def _checked(self, rows: csr_array) -> csr_array:
        if rows.ndim != 2 or rows.shape[1] != self.words:
            raise ValueError(f"rows must be n×{self.words}, not of shape {rows.shape}")
        rows = csr_array(rows, dtype=np.float32)
        if not np.isfinite(rows.data).all():
            raise ValueError("rows must be finite")
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        return rows


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The places of the k largest scores, by falling score, ties by place."""
    if k == 0:
        return np.empty(0, np.int64)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, level = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    chosen = np.concatenate([above, level[: k - len(above)]])
    order: NDArray[np.int64] = chosen[np.lexsort((chosen, -scores[chosen]))]
    return order


def _mapped(path: Path, kind: type[np.generic]) -> NDArray[Any]:
    array = load_array(path, "r")
    if array.dtype != kind or array.ndim != 1:
        raise ValueError(f"{path.name} holds {array.ndim}-dimensional {array.dtype}, not a list of {np.dtype(kind)}")
    return np.asarray(array)  # as a plain array: slices of np.memmap itself are slow to make
