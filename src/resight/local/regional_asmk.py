"""Regional aggregated selective match kernel, R-ASMK and R-ASMK* (Teichmann et al., CVPR 2019, §4; survey §4.2.2).

Detected or rigid regions of an image are aggregated into one representation of ASMK's size. Region r's residuals are
summed by visual word and the whole, its VLAD, is brought to length one; the regions' are then summed by word:
    V(c) = Σ_r V_r(c) / ‖V_r‖,   V_r(c) = Σ_{x ∈ r, q(x) = c} (x − c),
and V(c) takes the place of ASMK's sum: its direction in R-ASMK, its signs in R-ASMK*. So a feature weighs more the
more regions it lies in and the fewer features these hold. The paper takes the whole image as a region too. Its
average over regions is their sum here, as neither direction nor sign depends on it (feature_aggregation_extractor.py
of tensorflow/models). With the whole image as the only region both are ASMK.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resight.embedding.codebook import Codebook
from resight.local.asmk import Encoding
from resight.local.kernels import Words, WordVectors, assigned, residuals_by_word, sum_by_word, unit


def inside(xy: NDArray[np.float32], boxes: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """Rows of the N×2 keypoints in each of R×4 boxes (x1, y1, x2, y2), x2 and y2 exclusive, in the same pixels.

    Boxes measure from the corner of the top-left pixel and keypoints from its centre, half a pixel further in.
    """
    x, y = xy[:, 0] + 0.5, xy[:, 1] + 0.5
    return [np.flatnonzero((x >= x1) & (y >= y1) & (x < x2) & (y < y2)) for x1, y1, x2, y2 in boxes]


def regional_asmk(
    descriptors: NDArray[np.float32], regions: Sequence[NDArray[np.int64]], codebook: Codebook, words: Words = 1
) -> WordVectors:
    """R-ASMK's representation, which ``resight.local.kernels.similarity`` compares as it does ASMK's.

    descriptors: N×D. regions: rows of those that lie in each, as ``inside`` gives; a region without any adds nothing.
    """
    return unit(*_summed(descriptors, regions, codebook, words))


def encode_regional(
    descriptors: NDArray[np.float32], regions: Sequence[NDArray[np.int64]], codebook: Codebook, words: Words = 1
) -> Encoding:
    """R-ASMK*'s representation, for the inverted file of ASMK*. D must be a multiple of 8; zero counts as positive."""
    distinct, sums = _summed(descriptors, regions, codebook, words)
    return Encoding(distinct, np.packbits(sums >= 0, axis=1))


def _summed(
    descriptors: NDArray[np.float32], regions: Sequence[NDArray[np.int64]], codebook: Codebook, words: Words
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    known = assigned(descriptors, codebook, words)
    by_region, sums = [np.empty(0, np.int32)], [np.empty((0, codebook.dimension), np.float32)]
    for rows in regions:
        own, vlad = sum_by_word(*residuals_by_word(descriptors[rows], known[rows], codebook))
        length = np.linalg.norm(vlad)
        by_region.append(own)
        sums.append(vlad / length if length > 0 else vlad)
    every = np.concatenate(by_region)
    order = np.argsort(every, kind="stable")
    return sum_by_word(every[order], np.concatenate(sums)[order])
