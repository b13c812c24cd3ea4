"""Generalised max pooling: a set's vector that is as similar to rare features as to frequent ones (survey §4.2.1;
Murray & Perronnin, CVPR 2014).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.embedding.embedding import Features, Weights, join, join_weights
from resight.errors import RecipeError
from resight.features.multiscale import l2_normalise

KIND = "gmp"


def gmp(
    features: NDArray[np.floating], ridge: float = 1.0, weights: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """n×D features to the (D,) vector φ that is as similar to each: least Σ w_i (x_i·φ − 1)² + μ‖φ‖²; zeros for none.

    ridge: μ, above 0; the larger, the nearer to the direction of their sum. weights: w, (n,), at least 0; by default 1,
    as in the paper. Raises ValueError where these do not fit.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not ridge > 0:
        raise ValueError(f"features must be n×D and ridge above 0, not {x.shape} and {ridge}")
    root = np.ones(len(x)) if weights is None else np.sqrt(weights.astype(np.float64))
    scaled = x * root[:, np.newaxis]
    if len(x) <= x.shape[1]:  # both are the same φ; the smaller system is solved
        return np.asarray(_dual(scaled, root, ridge) @ scaled)
    return np.asarray(solve(scaled.T @ scaled + ridge * np.eye(x.shape[1]), root @ scaled, assume_a="pos"))


def gmp_weights(features: NDArray[np.floating], ridge: float = 1.0) -> NDArray[np.float64]:
    """(K + μI)⁻¹1 of n×D features' products K, (n,): what each counts in ``gmp``, which is their sum by these weights.

    Features that are alike share a weight. Raises ValueError as ``gmp``.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not ridge > 0:
        raise ValueError(f"features must be n×D and ridge above 0, not {x.shape} and {ridge}")
    return _dual(x, np.ones(len(x)), ridge)


def _dual(x: NDArray[np.float64], targets: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """α with which αX is the least of ‖Xφ − targets‖² + μ‖φ‖²."""
    if not len(x):
        return np.empty(0)
    return np.asarray(solve(x @ x.T + ridge * np.eye(len(x)), targets, assume_a="pos"))


@dataclass(frozen=True, eq=False)
class Gmp:
    """``gmp`` as an embedding, ℓ2-normalised. It learns nothing, and only knows how long features are.

    input_dimension: D. ridge: as ``gmp``. Raises ValueError for values out of range.
    """

    input_dimension: int
    ridge: float
    fitted_on: str

    def __post_init__(self) -> None:
        if self.input_dimension < 1 or not 0 < self.ridge < np.inf:
            raise ValueError(f"features have 1 entry or more and ridge is above 0, not {self}")

    @classmethod
    def fit(cls, features: ArrayLike, *, ridge: float = 1.0, fitted_on: str) -> Self:
        """For features like these, N×D."""
        return cls(int(np.shape(features)[1]), ridge, fitted_on)

    @property
    def dimension(self) -> int:
        """D, the length of what ``transform`` returns."""
        return self.input_dimension

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind and the values, in hex; ``fitted_on`` does not enter."""
        return artefact_fingerprint(KIND, self._tensors())

    def transform(self, features: Features) -> Features:
        """n×D to (D,) float32, ℓ2-normalised; zeros for no features. Raises ValueError for another D."""
        vector: Features = self.transform_sets([features])[0]
        return vector

    def transform_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> Features:
        """N sets of n_i×D features to N×D float32. weights: as ``gmp``; a feature of weight 2 is two features."""
        join(sets, self.input_dimension)  # only to check them
        join_weights(sets, weights)
        own = [None] * len(sets) if weights is None else weights
        found = [gmp(features, self.ridge, w) for features, w in zip(sets, own, strict=True)]
        return l2_normalise(np.array(found).reshape(len(sets), self.dimension)).astype(np.float32)

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        return save_artefact(path, KIND, self._tensors(), {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        tensors, meta = load_artefact(path, KIND)
        try:
            return cls(int(tensors["dimension"][0]), float(tensors["ridge"][0]), str(meta["fitted_on"]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a pooling that this version can use: {error}") from error

    def _tensors(self) -> dict[str, NDArray[np.number]]:
        return {"dimension": np.array([self.input_dimension], np.int64), "ridge": np.array([self.ridge], np.float64)}
