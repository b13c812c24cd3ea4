"""Fusion of layers and of models: by vector before a search, by similarity or rank after it (survey §4.1.3)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.features.multiscale import l2_normalise

_LISTED = 100  # images in a row of an index matrix
_RANK_OFFSET = 60  # of reciprocal rank fusion, as Cormack, Clarke & Büttcher (SIGIR 2009) chose it


def concatenate(vectors: Sequence[ArrayLike], weights: Sequence[float]) -> NDArray[np.float64]:
    """…×D_b vectors of B branches joined to …×ΣD_b, each ℓ2-normalised and times √w_b, then ℓ2-normalised.

    The inner product of two such vectors is the weighted mean of the branches' cosines.
    Raises ValueError for weights that are not one a branch, or not above 0.
    """
    if len(weights) != len(vectors) or not vectors or min(weights) <= 0:
        raise ValueError(f"give one weight above 0 for each of the {len(vectors)} vectors, not {list(weights)}")
    parts = [np.sqrt(w) * l2_normalise(x) for w, x in zip(weights, vectors, strict=True)]
    return l2_normalise(np.concatenate(parts, axis=-1))


def append_orthogonal(first: ArrayLike, second: ArrayLike, weight: float = 1.0) -> NDArray[np.float64]:
    """N×C of two branches to N×2C: the first, and what of the second is orthogonal to it; ℓ2-normalised.

    DOLG's fusion (Yang et al., ICCV 2021, Eq. 5-6) without what it learns: its average over positions of the local
    features' orthogonal parts is the orthogonal part of their average. weight: of the second, as in ``concatenate``.
    Raises ValueError unless both have the same length.
    """
    a, b = l2_normalise(first), l2_normalise(second)
    if a.shape != b.shape:
        raise ValueError(f"vectors must be of one shape, not {a.shape} and {b.shape}")
    rest = b - (a * b).sum(axis=-1, keepdims=True) * a
    return l2_normalise(np.concatenate([a, np.sqrt(weight) * rest], axis=-1))


def count_pairs(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each pair of two layers' visual words meets in a region: R×V and R×W to (V·W,), rooted, ℓ2-normalised.

    DeepIndex (Liu et al., ICMR 2015): an inverted index with one layer's words as rows and another's as columns. Each
    argument says how far each of R regions belongs to each word.
    """
    return l2_normalise(np.sqrt((rows.T @ columns).ravel()))


Late = Literal["scores", "ranks", "exponential", "index-matrix"]


def fuse(similarities: ArrayLike, weights: Sequence[float], method: Late) -> NDArray[np.float64]:
    """One similarity for each of N images from those of B branches, N×B; larger is more similar; (N,) float64.

    scores: Σ_b w_b s_b / Σ_b w_b.
    ranks: reciprocal rank fusion, Σ_b w_b / (60 + r_b) with r_b the image's rank from 1, ties sharing the best, divided
        by its largest possible value (Cormack et al., SIGIR 2009).
    exponential: s_1 · exp(Σ_{b>1} w_b (s_b − 1)): the first branch's similarity, refined by an exponential mapping of
        the others'. The idea is that of Yu et al. (Neurocomputing 2017; survey §4.1.3), who so refine a high layer by
        lower ones; the form and its weights are ours. Similarities are cosines; below 0 in the first counts as 0.
    index-matrix: Σ_b w_b · max(0, K + 1 − r_b)/K ÷ Σ_b w_b for K = 100: of each branch only its index matrix, the K
        nearest images in order, takes part, and similarities none. That index matrices of two kinds of features are
        fused is Zhang et al.'s (survey §4.1.3 [104]); that it is by a truncated Borda count is ours.
    Raises ValueError where the weights are not one a branch, above 0.
    """
    s = np.asarray(similarities, np.float64)
    w = np.asarray(weights, np.float64)
    if s.ndim != 2 or w.shape != (s.shape[1],) or not (w > 0).all():
        raise ValueError(f"similarities must be N×B with B weights above 0, not {s.shape} with {list(weights)}")
    if method == "scores":
        return np.asarray(s @ w / w.sum())
    if method in ("ranks", "index-matrix"):
        ordered = np.sort(s, axis=0)
        better = np.stack([len(s) - np.searchsorted(o, x, side="right") for o, x in zip(ordered.T, s.T, strict=True)])
        if method == "index-matrix":
            return np.asarray((w[:, None] * np.maximum(0, _LISTED - better)).sum(axis=0) / (_LISTED * w.sum()))
        return np.asarray((w[:, None] / (_RANK_OFFSET + 1 + better)).sum(axis=0) * (_RANK_OFFSET + 1) / w.sum())
    return np.asarray(np.maximum(s[:, 0], 0) * np.exp((s[:, 1:] - 1) @ w[1:]))
