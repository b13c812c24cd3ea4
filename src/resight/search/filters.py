"""The first ranking: how similar every image of a collection is to a query, by one cheap measure."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from resight.local.asmk import Encoding, selectivity
from resight.store.log import LogReader
from resight.store.store import Snapshot

_BLOCK = 65_536  # vectors compared at a time


def asmk_similarity(
    snapshot: Snapshot, query: Encoding, *, alpha: float, threshold: float
) -> tuple[NDArray[np.float32], int]:
    """ASMK* similarity of a query to each image of a snapshot (equations in ``resight.local.asmk``).

    Returns (N,) float32 in [0, 1], 0 for images without words, and the number of codes that were compared.
    """
    total = np.zeros(len(snapshot))
    compared = 0
    weight = selectivity(query.codes.shape[1] * 8, alpha, threshold)
    asked = _lanes(query.codes)
    for segment in snapshot.segments:
        codes = _lanes(segment.codes)
        for rows, postings in segment.gather(query.words):
            distance = np.bitwise_count(codes[postings] ^ asked[rows]).sum(axis=1, dtype=np.int64)
            position = snapshot.positions(segment.images[postings])
            # Postings of removed images, at −1, are counted in front of the others and dropped.
            total += np.bincount(position + 1, weights=weight[distance], minlength=len(total) + 1)[1:]
            compared += len(postings)
    norm = np.sqrt(np.maximum(snapshot.words, 1) * max(1, len(query)))
    return (total / norm).astype(np.float32), compared


def _lanes(codes: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.uint64]:
    """The same bits in 64-bit pieces, where they divide into such: an eighth of the work."""
    return codes.view(np.uint64) if codes.shape[1] % 8 == 0 and len(codes) else codes


def cosine_similarity(
    snapshot: Snapshot, log: LogReader, query: NDArray[np.float32], lengths: tuple[int, ...]
) -> NDArray[np.float32]:
    """Inner products of a (D,) query's ℓ2-normalised parts with those of each image; N×B float32, −1 without a vector.

    lengths: of the B parts; they sum to D.
    """
    similarity = np.full((len(snapshot), len(lengths)), -1.0, np.float32)
    ends = np.cumsum([0, *lengths])
    rows = np.flatnonzero(snapshot.vectors_at >= 0)
    if len(rows) == 0:
        return similarity
    length = 4 * len(query)
    last = int(snapshot.vectors_at[rows].max())
    vectors = log.record(0, last + length).view("<f4").reshape(-1, len(query))
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        block = vectors[snapshot.vectors_at[part] // length]
        for place, (a, b) in enumerate(pairwise(ends.tolist())):
            similarity[part, place] = block[:, a:b] @ query[a:b]
    return similarity
