"""The codes nearest to others in Hamming distance: what an index of codes does, and the one that compares with all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from resight.hashing.codes import differing, lanes

Codes = NDArray[np.uint8]  # N×B/8
Neighbours = tuple[NDArray[np.int32], NDArray[np.int64]]

_BLOCK = 65_536  # codes compared at a time
_HELD = 2**26  # bytes of rows by distance, which faiss keeps for each query


class CodeIndex(Protocol):
    """N codes, known by their rows, among which the nearest to others are found."""

    def search(self, codes: Codes, k: int) -> Neighbours:
        """Of each of Q codes, the k nearest: their distances, Q×k int32, ascending, and their rows, Q×k int64.

        Of those at one distance the lowest rows, in order. With fewer than k codes there are N columns instead of k.
        Raises ValueError for codes of another length or k below 1.
        """
        ...


@dataclass(frozen=True, eq=False)
class Scan:
    """Compares with every code: exact. codes: N×B/8 uint8; also a memory map, which is read and not copied."""

    codes: Codes

    def __post_init__(self) -> None:
        check_codes(self.codes)

    def search(self, codes: Codes, k: int) -> Neighbours:
        """As ``CodeIndex.search``. Memory beside the answer is bounded by a number of queries at a time."""
        asked, k = check_search(codes, self.codes, k)
        distances, rows = np.empty((len(asked), k), np.int32), np.empty((len(asked), k), np.int64)
        if k == 0:
            return distances, rows
        each = 8 * k * (8 * self.codes.shape[1] + 1)
        if each > _HELD:
            for place, query in enumerate(asked):
                found = distances_to(query, self.codes)
                rows[place] = np.argsort(found, kind="stable")[:k]
                distances[place] = found[rows[place]]
            return distances, rows
        together = _HELD // each
        for start in range(0, len(asked), together):
            part = slice(start, start + together)
            # By counting ("mc"), which meets the rows in order and keeps the first k at each distance.
            distances[part], rows[part] = faiss.knn_hamming(asked[part], self.codes, k, variant="mc")
        return distances, rows


def distances_to(query: Codes, codes: Codes) -> NDArray[np.int32]:
    """In how many bits a (B/8,) code differs from each of N×B/8; (N,) int32. Memory beside that is bounded."""
    distances = np.empty(len(codes), np.int32)
    for start, block in blocks(codes):
        distances[start : start + len(block)] = differing(lanes(query[None]), lanes(block))
    return distances


def blocks(codes: Codes) -> Iterator[tuple[int, Codes]]:
    """The codes in parts of bounded size, each with the row of its first."""
    for start in range(0, len(codes), _BLOCK):
        yield start, codes[start : start + _BLOCK]


def check_codes(codes: Codes) -> None:
    """ValueError unless these are codes in one piece of memory."""
    if codes.ndim != 2 or codes.dtype != np.uint8 or codes.shape[1] == 0:
        raise ValueError(f"codes must be N×B/8 uint8, not {codes.dtype} {codes.shape}")
    if not codes.flags.c_contiguous:
        raise ValueError("codes must be contiguous by rows: give np.ascontiguousarray(codes), which copies them")


def check_search(asked: Codes, codes: Codes, k: int) -> tuple[Codes, int]:
    """What is asked for, contiguous, and how many can be found. Raises ValueError as ``CodeIndex.search``."""
    if asked.ndim != 2 or asked.dtype != np.uint8 or asked.shape[1] != codes.shape[1]:
        raise ValueError(f"codes must be Q×{codes.shape[1]} uint8, not {asked.dtype} {asked.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return np.ascontiguousarray(asked), min(k, len(codes))


def nearest(distances: NDArray[np.number], rows: NDArray[np.int64], k: int) -> Neighbours:
    """The k least of (M,) whole distances, or all, and their rows; of equal ones the lowest rows."""
    order = np.lexsort((rows, distances))[:k]
    return distances[order].astype(np.int32), rows[order]
