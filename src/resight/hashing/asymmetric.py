"""Asymmetric distances: only the database is binary, the query keeps its values (Gordo & Perronnin, CVPR 2011; Gordo et
al., TPAMI 2014).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.hashing.search import Codes, blocks, check_codes

_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") * 2.0 - 1.0  # 256×8 of ±1


def asymmetric_scores(projected: ArrayLike, codes: Codes) -> NDArray[np.float32]:
    """Σ_b f_b(q)·s_b of each of Q queries with each of N codes, s_b = ±1 for the bit; Q×N float32, larger is nearer.

    projected: f(q), Q×B (``HashFunction.project``). It is Σ_b |f_b| - 2 Σ |f_b| over the bits in which sign f(q) and
    the code differ: it orders as the paper's lower-bound distance does with |f_b| in place of f_b², which needs nothing
    that is learned. By tables of what each value of each byte adds, so that equal codes score equally to the last bit.
    Raises ValueError for another B. Memory beside the result is bounded.
    """
    tables = _tables(projected, codes)
    scores = np.empty((len(tables), len(codes)), np.float32)
    for start, block in blocks(codes):
        scores[:, start : start + len(block)] = _scores(tables, block)
    return scores


def nearest_asymmetric(projected: ArrayLike, codes: Codes, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k codes of the largest ``asymmetric_scores``: scores, Q×k float32, descending, and rows, Q×k int64.

    Of those that score equally the lowest rows, in order. With fewer than k codes there are N columns instead of k.
    Raises ValueError as ``asymmetric_scores``, and for k below 1. Q×k and a bounded number of codes are in memory.
    """
    tables = _tables(projected, codes)
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in tables]
    for start, block in blocks(codes):
        for place, scores in enumerate(_scores(tables, block)):
            kept, rows = best[place]
            # A later row that only equals the k-th would come after it.
            hopeful = np.flatnonzero(scores > kept[-1]) if len(kept) == k else np.arange(len(scores))
            together = np.append(kept, scores[hopeful])
            order = np.argsort(-together, kind="stable")[:k]
            best[place] = together[order], np.append(rows, start + hopeful)[order]
    width = min(k, len(codes))
    found = np.array([scores for scores, _ in best], np.float32).reshape(len(tables), width)
    return found, np.array([rows for _, rows in best], np.int64).reshape(len(tables), width)


def _tables(projected: ArrayLike, codes: Codes) -> NDArray[np.float32]:
    """What each value of each byte adds to the scores of each query, Q×B/8×256."""
    check_codes(codes)
    f = np.asarray(projected, np.float32)
    if f.ndim != 2 or f.shape[1] != 8 * codes.shape[1]:
        raise ValueError(f"projected queries must be Q×{8 * codes.shape[1]}, not {f.shape}")
    return (f.reshape(len(f), codes.shape[1], 8) @ _BYTES.T.astype(np.float32)).astype(np.float32)


def _scores(tables: NDArray[np.float32], block: Codes) -> NDArray[np.float32]:
    """Q×n of n codes."""
    scores = np.zeros((len(tables), len(block)), np.float32)
    for place, column in enumerate(block.T):
        values = column.astype(np.intp)
        for query, table in zip(scores, tables[:, place], strict=True):
            query += table[values]
    return scores
