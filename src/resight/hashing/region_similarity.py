"""Images as alike as their best-matching regions, of which each has a code (survey §4.2.4; Song et al., "Deep region
hashing", AAAI 2018).
"""

import numpy as np
from numpy.typing import NDArray

from resight.hashing.codes import hamming

_BLOCK_BYTES = 1 << 26  # of compared codes at a time


def region_similarity(
    query: NDArray[np.uint8], codes: NDArray[np.uint8], offsets: NDArray[np.integer]
) -> NDArray[np.float32]:
    """For each of N images the share, 0 … 1, of bits that agree in the best of its matches with the query's regions.

    query: r×B/8 codes, r at least 1. codes: R×B/8, image by image. offsets: (N + 1,), where each image's begin, and R.
    Returns (N,); 0 for an image without regions. Raises ValueError where these do not fit.
    """
    if query.ndim != 2 or len(query) == 0 or codes.ndim != 2 or query.shape[1] != codes.shape[1]:
        raise ValueError(f"codes must be r×B/8, with r at least 1, and R×B/8, not {query.shape} and {codes.shape}")
    steps = np.diff(offsets)
    if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(codes) or (steps < 0).any():
        raise ValueError(f"offsets must ascend from 0 to the {len(codes)} codes")
    bits = 8 * codes.shape[1]
    best = np.empty(len(codes), np.int32)
    block = max(1, _BLOCK_BYTES // query.size)
    for start in range(0, len(codes), block):
        best[start : start + block] = hamming(query, codes[start : start + block]).min(axis=0)
    similarity = np.zeros(len(steps), np.float32)
    filled = steps > 0  # reduceat would give an empty image the next one's first region
    if filled.any():
        similarity[filled] = 1 - np.minimum.reduceat(best, offsets[:-1][filled]) / bits
    return similarity
