"""Dynamic match kernel: how near two features must be depends on how near their images are as wholes.

Yang et al., "Dynamic match kernel with deep convolutional features for image retrieval", TIP 2018 (DMK-CNN; survey
§4.2.2). Features that share a visual word match if their B-bit codes differ in at most
    τ(X, Y) = ⌈B · λ · exp(−κ d(X, Y))⌉
bits, where d is the distance of the two images' global deep descriptors; a static kernel has one τ for all pairs. So
images that look alike may match freely, and chance matches of unrelated ones are cut off. A match at Hamming distance
h weighs 1 − h/B, and K(X, Y) = (|X| |Y|)^(−1/2) Σ of these weights. λ = 0.6, κ = 0.5 and the weight are those of the
authors' query_dth_dta.m (JLiangNKU/Dynamic-match-kernel-for-image-retrieval).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import QueryError
from resight.local.asmk import Encoding
from resight.local.kernels import meetings


def hamming_threshold(
    distance: ArrayLike, bits: int, *, fraction: float = 0.6, decay: float = 0.5
) -> NDArray[np.int64]:
    """τ of each distance d ≥ 0 between global descriptors; of the distances' shape, between 0 and `bits`.

    distance: Euclidean, of ℓ2-normalised descriptors, so that it lies in [0, 2]. fraction: λ. decay: κ.
    Raises QueryError for a negative distance or one that is not a number, or λ outside (0, 1], or κ below 0.
    """
    d = np.asarray(distance, np.float64)
    if not np.all(d >= 0):
        raise QueryError("distance must be 0 or more: give Euclidean distances of global descriptors")
    if not (0 < fraction <= 1 and decay >= 0):
        raise QueryError(f"fraction must be in (0, 1] and decay 0 or more, not {fraction} and {decay}")
    return np.ceil(bits * fraction * np.exp(-decay * d)).astype(np.int64)


def dynamic_similarity(x: Encoding, y: Encoding, threshold: int) -> float:
    """K(X, Y) in [0, 1] for two images' codes by word and their τ; 0 where one has none.

    With a code for each feature, a word repeated, instead of one for each word, this is the kernel over Hamming
    embedding (the paper's non-aggregated form).
    """
    if len(x) == 0 or len(y) == 0:
        return 0.0
    if x.codes.shape[1] != y.codes.shape[1]:
        raise QueryError(f"codes of {8 * x.codes.shape[1]} and {8 * y.codes.shape[1]} bits cannot be compared")
    i, j = meetings(x.words, y.words)
    hamming = np.bitwise_count(x.codes[i] ^ y.codes[j]).sum(axis=1, dtype=np.int64)
    weight = 1 - hamming[hamming <= threshold] / (8 * x.codes.shape[1])
    return float(weight.sum() / np.sqrt(len(x) * len(y)))
