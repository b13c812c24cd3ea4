"""Embedded features into one vector, by sum or democratically (survey §4.2.1; Jégou & Zisserman, CVPR 2014, §4)."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Aggregation = Literal["sum", "democratic"]


def democratic_weights(gram: ArrayLike, *, iterations: int = 10, exponent: float = 0.5) -> NDArray[np.float64]:
    """Weights λ under which each feature contributes as much to its set's self-similarity: λ_i Σ_j λ_j k(i, j) = 1.

    gram: n×n, symmetric, the inner products of the embedded features. Entries below 0 count as 0, as in the paper.
    iterations, exponent: of the modified Sinkhorn algorithm, λ_i ← λ_i · (λ_i Σ_j λ_j k(i, j))^-exponent. The paper
        stops after 10, near enough to the equality; 0.5 makes it converge for symmetric matrices (Knight, 2008).
    Returns (n,) float64: above 0, but 0 for a zero vector, which cannot contribute.
    Raises ValueError for another shape or entries that are not finite.
    """
    kernel = np.asarray(gram, np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not np.isfinite(kernel).all():
        raise ValueError(f"gram must be n×n and finite, not of shape {kernel.shape}")
    kernel = np.maximum(kernel, 0.0)
    alive = kernel.diagonal() > 0
    weights = alive.astype(np.float64)
    for _ in range(iterations):
        contribution = weights * (kernel @ weights)
        weights[alive] /= contribution[alive] ** exponent
    return weights


def aggregate(
    embedded: NDArray[np.floating], method: Aggregation, weights: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """n×K embedded features to (K,) float64: Σ φ_i, or Σ λ_i φ_i with λ of ``democratic_weights``; zeros for none.

    weights: (n,), times φ_i in the sum; λ is of the features as they are, as it would undo weights within them.
    """
    counts = np.ones(len(embedded)) if weights is None else weights.astype(np.float64)
    if method == "democratic":
        counts = counts * democratic_weights(embedded @ embedded.T)
    return np.asarray(counts @ embedded)


def power_normalise(x: NDArray[np.floating], power: float) -> NDArray[np.float32]:
    """sign(x)·|x|^power, then ℓ2-normalised along the last axis; zero vectors stay zero; float32."""
    raised = np.sign(x, dtype=np.float64) * np.abs(x, dtype=np.float64) ** power
    norm = np.linalg.norm(raised, axis=-1, keepdims=True)
    return np.asarray(raised / np.where(norm > 0, norm, 1.0), np.float32)
