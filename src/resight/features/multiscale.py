"""One descriptor from several scales of an image (survey §4.1.2; Radenović et al., TPAMI 2019)."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


def l2_normalise(x: ArrayLike) -> NDArray[np.float64]:
    """Each vector along the last axis divided by its Euclidean norm; zero vectors stay zero."""
    vectors = np.asarray(x, dtype=np.float64)
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1.0)


def combine_scales(
    vectors: ArrayLike, pooling: Literal["mean", "gem"] = "mean", p: ArrayLike = 3.0
) -> NDArray[np.float64]:
    """Scales ℓ2-normalised, averaged, and ℓ2-normalised again.

    vectors: S×…×D, the S scales first.
    pooling: ``mean``, or ``gem`` for the generalised mean with exponent ``p``, one or (D,), over the scales, which
        suits GeM without in-net whitening and needs non-negative vectors.
    Returns …×D. Raises ValueError where these do not fit.
    """
    scales = l2_normalise(vectors)
    if scales.ndim < 2 or scales.shape[0] == 0:
        raise ValueError(f"vectors must be S×…×D with at least one scale, not {scales.shape}")
    if pooling == "mean":
        return l2_normalise(scales.mean(axis=0))
    exponent = np.asarray(p, np.float64)
    if (exponent <= 0).any() or scales.min(initial=0.0) < 0:
        raise ValueError("the generalised mean needs p above 0 and vectors without negative entries")
    return l2_normalise(np.power(np.power(scales, exponent).mean(axis=0), 1.0 / exponent))
