"""What every embedding is: something learned that makes one vector of a set of local features (survey §4.2.1)."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
Weights = Sequence[NDArray[np.floating]]  # of each of N sets, (n_i,), at least 0: how much each feature counts


class Embedding(Protocol):
    """A learned map from sets of D-dimensional features to vectors of K entries.

    Each has a ``fit`` of its own: features N×D first, then what it needs, ``seed`` and ``fitted_on``.
    """

    @property
    def dimension(self) -> int:
        """K, the length of what ``transform`` returns."""
        ...

    @property
    def input_dimension(self) -> int:
        """D, the length of a feature."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of all that decides what ``transform`` returns."""
        ...

    @property
    def fitted_on(self) -> str:
        """What it was learned from, in words."""
        ...

    def transform(self, features: Features) -> Features:
        """n×D to (K,) float32, ℓ2-normalised; zeros for no features. Raises ValueError for another D."""
        ...

    def transform_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> Features:
        """N sets of n_i×D features to N×K float32: ``transform`` of each, quicker for many small sets.

        weights: what a feature adds is multiplied by its own; without them all count alike. Raises ValueError where
        they do not fit the sets or are below 0.
        """
        ...

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        ...

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        ...


def join(sets: Sequence[Features], dimension: int) -> tuple[Features, NDArray[np.int64]]:
    """All features of N sets, Σn_i×D float32, and N+1 bounds: set i is the rows bounds[i]:bounds[i+1].

    Raises ValueError for a set that is not n×``dimension``, or not finite.
    """
    for number, features in enumerate(sets):
        if features.ndim != 2 or features.shape[1] != dimension:
            raise ValueError(f"set {number} must be n×{dimension}, not of shape {features.shape}")
    joined = np.concatenate([np.empty((0, dimension), np.float32), *sets], dtype=np.float32)
    if not np.isfinite(joined).all():
        raise ValueError("features must be finite")
    return joined, np.cumsum([0, *map(len, sets)], dtype=np.int64)


def join_weights(sets: Sequence[Features], weights: Weights | None) -> NDArray[np.float32] | None:
    """The weights of all features of all sets, (Σn_i,); None without. Raises ValueError as ``transform_sets``."""
    if weights is None:
        return None
    if len(weights) != len(sets) or any(w.shape != (len(x),) for w, x in zip(weights, sets, strict=True)):
        raise ValueError(f"weights must be one for each feature of each of {len(sets)} sets")
    joined = np.concatenate([np.empty(0, np.float32), *weights], dtype=np.float32)
    if not (np.isfinite(joined).all() and (joined >= 0).all()):
        raise ValueError("weights must be finite and at least 0")
    return joined


def weighted_batches(
    sets: Iterable[Features], weights: NDArray[np.float32] | None, size: int
) -> Iterator[tuple[list[Features], NDArray[np.float32] | None]]:
    """``batches`` of sets, each with its share of what ``join_weights`` gives."""
    start = 0
    for batch in batches(sets, size):
        stop = start + sum(map(len, batch))
        yield batch, None if weights is None else weights[start:stop]
        start = stop


def batches(sets: Iterable[Features], size: int) -> Iterator[list[Features]]:
    """Consecutive sets, as many at a time as have at least ``size`` features together."""
    batch: list[Features] = []
    held = 0
    for features in sets:
        batch.append(features)
        held += len(features)
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
