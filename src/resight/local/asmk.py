"""Binary aggregated selective match kernel, ASMK* (Tolias, Avrithis & Jégou, ICCV 2013, IJCV 2016; survey §4.2.2).

Similarity of images X and Y with visual words C:
    S(X, Y) = γ(X) γ(Y) Σ_{c ∈ C} σ(u(b(X_c), b(Y_c))),   u = 1 − 2h/B,   σ(u) = sign(u)|u|^α if u > τ else 0,
where b(X_c) are the B signs of the sum of the residuals of X's descriptors at word c, h the Hamming distance, and
γ(X) = |{words of X}|^(−1/2), so that S(X, X) = 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resight.embedding.codebook import Codebook


@dataclass(frozen=True, eq=False)
class Encoding:
    """An image as its visual words. words: M int32, ascending, unique. codes: M×(B/8) uint8, packed signs.

    Other filters keep other codes of the same kind: ``resight.local.word_filter``; in some a word may repeat.
    """

    words: NDArray[np.int32]
    codes: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.words)


def encode(descriptors: NDArray[np.float32], codebook: Codebook, assignments: int = 1) -> Encoding:
    """Assign N×D descriptors to their nearest words, sum the residuals of each word, and keep the signs.

    D must be a multiple of 8; a zero sum counts as positive.
    """
    words = codebook.assign(descriptors, assignments)
    return encode_assigned(descriptors, words, codebook)


def encode_assigned(descriptors: NDArray[np.float32], words: NDArray[np.int64], codebook: Codebook) -> Encoding:
    """The encoding of descriptors whose N×k words (−1 for none) are already known."""
    row, column = np.nonzero(words >= 0)
    word = words[row, column]
    order = np.argsort(word, kind="stable")
    unique, start = np.unique(word[order], return_index=True)
    if len(unique) == 0:
        return Encoding(np.empty(0, np.int32), np.empty((0, codebook.dimension // 8), np.uint8))
    residuals = descriptors[row[order]] - codebook.words[word[order]]
    signs = np.add.reduceat(residuals, start, axis=0) >= 0
    return Encoding(unique.astype(np.int32), np.packbits(signs, axis=1))


def selectivity(bits: int, alpha: float, threshold: float) -> NDArray[np.float32]:
    """σ(1 − 2h/bits) for every Hamming distance h = 0 … bits; (bits+1,) float32."""
    u = 1 - 2 * np.arange(bits + 1) / bits
    return np.where(u > threshold, np.sign(u) * np.abs(u) ** alpha, 0).astype(np.float32)
