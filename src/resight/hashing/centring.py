"""Vectors put to zero mean and a given length before a hash layer is learned, and that undone in the layer."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import RecipeError
from resight.hashing.function import Layer


@dataclass(frozen=True, eq=False)
class Centring:
    """x ↦ (x − mean) / scale, one scale for all entries, so that directions stay as they are.

    Bits are signs: they are balanced about the mean of the vectors, not about 0, and learning rates suit one length.
    """

    mean: NDArray[np.float64]
    scale: float

    @classmethod
    def of(cls, x: NDArray[np.floating], squared_norm: float | None = None) -> Self:
        """Under which N×D vectors have the mean squared norm ``squared_norm``, by default D: 1 for each entry.

        Raises RecipeError where all vectors are alike.
        """
        mean = x.mean(axis=0, dtype=np.float64)
        wanted = x.shape[1] if squared_norm is None else squared_norm
        scale = float(np.sqrt(np.square(x - mean).sum(axis=1).mean() / wanted))
        if not scale > np.finfo(np.float32).eps * np.abs(mean).max():
            raise RecipeError(f"the {len(x)} vectors are all alike, so no bit can tell them apart: give varied photos")
        return cls(mean, scale)

    def __call__(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """…×D to the same, centred and scaled."""
        return np.asarray((x - self.mean) / self.scale, np.float32)

    def into(self, layer: Layer) -> Layer:
        """The layer that does to a vector what ``layer`` does to it once it is centred."""
        weight = layer.weight / self.scale
        return Layer(weight.astype(np.float32), (layer.bias - weight @ self.mean).astype(np.float32), layer.activation)


def check_vectors(x: ArrayLike, bits: int) -> NDArray[np.float32]:
    """N×D float32 that codes of so many bits are to be learned from.

    Raises ValueError for other shapes, entries that are not finite, or bits not in eights; RecipeError for N below 2.
    """
    vectors = np.asarray(x, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] == 0 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors must be N×D and finite, not of shape {vectors.shape}")
    if bits < 8 or bits % 8:
        raise ValueError(f"bits must be a positive multiple of 8, not {bits}")
    if len(vectors) < 2:
        raise RecipeError(f"a hash function is learned from 2 photos at least, better thousands; here: {len(vectors)}")
    return vectors
