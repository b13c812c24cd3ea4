"""Selective match kernels in full precision: SMK and ASMK (survey §4.2.2).

Tolias, Avrithis & Jégou, ICCV 2013 (Table 1, Eq. 14–15) and IJCV 2016. Similarity of images X and Y with words C:
    K(X, Y) = γ(X) γ(Y) Σ_{c ∈ C} M(X_c, Y_c),   γ(X) = (Σ_c M(X_c, X_c))^(−1/2), so that K(X, X) = 1,
    SMK:  M(X_c, Y_c) = Σ_{x ∈ X_c} Σ_{y ∈ Y_c} σ(r̂(x)ᵀ r̂(y)),    r(x) = x − c, the residual of x at its word,
    ASMK: M(X_c, Y_c) = σ(V̂(X_c)ᵀ V̂(Y_c)),                         V(X_c) = Σ_{x ∈ X_c} r(x),
where ^ is ℓ2 normalisation and σ(u) = sign(u)|u|^α if u > τ else 0. ``resight.local.asmk`` is ASMK's binary form. A
residual of zero has no direction and is left out. With multiple assignment a descriptor counts at each of its words.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resight.embedding.codebook import Codebook

Words = int | NDArray[np.int64]
"""How many words a descriptor has, or those it has, N×k (−1 for none), where they are known."""

_PAIRS = 1 << 16  # inner products computed at a time, which bounds memory


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Unit vectors of an image by visual word. words: M int32, ascending, repeated in SMK; vectors: M×D float32."""

    words: NDArray[np.int32]
    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.words.shape != (len(self.vectors),):
            raise ValueError(f"vectors must be M×D with M words, not {self.vectors.shape} with {self.words.shape}")
        if np.any(np.diff(self.words) < 0):
            raise ValueError("words must ascend: sort the vectors by word")

    def __len__(self) -> int:
        return len(self.words)


def smk(descriptors: NDArray[np.float32], codebook: Codebook, words: Words = 1) -> WordVectors:
    """SMK's representation of N×D descriptors: the direction of each residual, a row for each word of a descriptor."""
    return unit(*residuals_by_word(descriptors, assigned(descriptors, codebook, words), codebook))


def asmk(descriptors: NDArray[np.float32], codebook: Codebook, words: Words = 1) -> WordVectors:
    """ASMK's representation of N×D descriptors: the direction of the sum of the residuals at each word."""
    return unit(*sum_by_word(*residuals_by_word(descriptors, assigned(descriptors, codebook, words), codebook)))


def assigned(descriptors: NDArray[np.float32], codebook: Codebook, words: Words) -> NDArray[np.int64]:
    """The N×k words of N×D descriptors."""
    return codebook.assign(descriptors, words) if isinstance(words, int) else words


def similarity(x: WordVectors, y: WordVectors, *, alpha: float = 3.0, threshold: float = 0.0) -> float:
    """K(X, Y), in [−1, 1] and 1 for an image with itself; 0 where an image has no words or no similarity to itself.

    alpha: α > 0. threshold: τ; u = τ itself is not selected.
    """
    norm = unnormalised(x, x, alpha, threshold) * unnormalised(y, y, alpha, threshold)
    return unnormalised(x, y, alpha, threshold) / norm**0.5 if norm > 0 else 0.0


def unnormalised(x: WordVectors, y: WordVectors, alpha: float, threshold: float) -> float:
    """Σ_c M(X_c, Y_c): the sum of σ over all pairs of vectors that share a word."""
    i, j = meetings(x.words, y.words)
    total = 0.0
    for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        u = np.einsum("nd,nd->n", x.vectors[i[part]], y.vectors[j[part]])
        total += float(select(u, alpha, threshold).sum(dtype=np.float64))
    return total


def select(u: NDArray[np.float32], alpha: float, threshold: float) -> NDArray[np.float32]:
    """σ(u) of each similarity."""
    return np.where(u > threshold, np.sign(u) * np.abs(u) ** alpha, 0).astype(np.float32)


def meetings(x: NDArray[np.int32], y: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs (i, j) with x[i] = y[j] of two ascending lists of words, by j and then i."""
    first = np.searchsorted(x, y, "left")
    counts = np.searchsorted(x, y, "right") - first
    j = np.repeat(np.arange(len(y)), counts)
    i = np.arange(len(j)) + np.repeat(first - np.cumsum(counts) + counts, counts)
    return i, j


def residuals_by_word(
    descriptors: NDArray[np.float32], assigned: NDArray[np.int64], codebook: Codebook
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """M words, ascending, and M×D residuals at them, of N×D descriptors and their N×k words (−1 for none)."""
    row, column = np.nonzero(assigned >= 0)
    word = assigned[row, column]
    order = np.argsort(word, kind="stable")
    return word[order].astype(np.int32), descriptors[row[order]] - codebook.words[word[order]]


def sum_by_word(
    words: NDArray[np.int32], vectors: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The distinct ones of ascending words, and the sum of the vectors of each."""
    unique, start = np.unique(words, return_index=True)
    return unique, np.add.reduceat(vectors, start, axis=0) if len(unique) else vectors


def unit(words: NDArray[np.int32], vectors: NDArray[np.float32]) -> WordVectors:
    """The vectors at length one; those of length zero are left out."""
    length = np.linalg.norm(vectors, axis=1)
    kept = length > 0
    return WordVectors(words[kept], vectors[kept] / length[kept, None])
