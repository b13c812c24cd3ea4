"""Mixtures of Gaussians with diagonal covariances, learned in bounded memory (survey §4.2.1, Eq. 6)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.embedding.codebook import Codebook
from resight.embedding.embedding import Features
from resight.errors import RecipeError

_BLOCK = 8192  # features whose posteriors are held at a time
_LEAST = 1.0  # features' worth of posterior below which a component's mean and variance stay as they are

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gmm:
    """A mixture of K Gaussians with diagonal covariances.

    weights: (K,), sum 1. means: K×D. variances: K×D. All float32 and the first and last above 0.
    """

    weights: Features
    means: Features
    variances: Features
    fitted_on: str

    def __post_init__(self) -> None:
        if self.means.ndim != 2 or self.variances.shape != self.means.shape or self.weights.shape != (len(self.means),):
            shapes = self.weights.shape, self.means.shape, self.variances.shape
            raise ValueError(f"weights must be (K,), means and variances K×D, not {shapes}")
        if not ((self.weights > 0).all() and (self.variances > 0).all()):
            raise ValueError("weights and variances must be above 0")

    @classmethod
    def fit(
        cls,
        features: Features,
        components: int,
        *,
        seed: int,
        fitted_on: str,
        iterations: int = 30,
        floor: float = 1e-3,
    ) -> Self:
        """Learn the mixture of N×D features by expectation–maximisation, from k-means.

        Reads the features, which may be memory-mapped, `iterations` times in blocks; memory is for a block and for what
        k-means samples. floor: least variance, as a multiple of the features' own in that dimension.
        Raises RecipeError for fewer features than components, or features that are all equal; ValueError unless
        they are N×D and finite.
        """
        if features.ndim != 2:
            raise ValueError(f"features must be N×D, not of shape {features.shape}")
        if not 1 <= components <= len(features):
            raise RecipeError(
                f"{len(features):,} features cannot make {components:,} components: give more images, or ask for fewer"
            )
        origin = np.asarray(features.mean(axis=0, dtype=np.float64), np.float64)
        if not np.isfinite(origin).all():
            raise ValueError("features must be finite")
        spread = np.zeros(features.shape[1])
        for block in _blocks(features, origin):
            spread += np.square(block).sum(axis=0)
        if not spread.any():
            raise RecipeError("all features are equal, and no mixture can be learned from them: give other images")
        spread = np.where(spread > 0, spread, spread.mean()) / len(features)
        codebook = Codebook.fit(features, components, seed=seed, fitted_on=fitted_on, cells=1)
        nearest = codebook.assign(features)[:, 0]
        means = codebook.words - origin
        weights, variances = _of_clusters(features, nearest, origin, means, spread)
        lowest = floor * spread
        for _ in range(iterations):
            weights, means, variances = _step(features, origin, weights, means, np.maximum(variances, lowest))
        variances = np.maximum(variances, lowest)
        return cls(
            weights.astype(np.float32), (means + origin).astype(np.float32), variances.astype(np.float32), fitted_on
        )

    def posteriors(self, features: Features) -> Reals:
        """γ_k(x) of Eq. 6, n×D to n×K float64."""
        origin = self.origin
        return _posteriors(features - origin, self.weights, self.means - origin, self.variances)[0]

    @property
    def origin(self) -> Reals:
        """(D,): where densities are worked out, as moments about a far origin lose their digits."""
        return np.asarray(self.means.mean(axis=0, dtype=np.float64), np.float64)


def _blocks(features: Features, origin: Reals) -> Iterator[Reals]:
    for start in range(0, len(features), _BLOCK):
        yield features[start : start + _BLOCK] - origin


def _posteriors(
    x: Reals, weights: NDArray[np.floating], means: Reals, variances: NDArray[np.floating]
) -> tuple[Reals, Reals]:
    """γ, n×K, and the log-likelihood of each of n×D features, (n,).

    Σ (x − μ)²/σ² is multiplied out into two matrix products, which takes no n×K×D differences.
    """
    precisions = 1 / variances.astype(np.float64)
    constant = np.log(weights.astype(np.float64)) - 0.5 * (
        np.log(2 * np.pi * variances.astype(np.float64)) + means**2 * precisions
    ).sum(axis=1)
    joint = x @ (means * precisions).T - 0.5 * (np.square(x) @ precisions.T) + constant
    peak = joint.max(axis=1, keepdims=True)
    joint -= peak
    np.exp(joint, out=joint)
    total = joint.sum(axis=1, keepdims=True)
    joint /= total
    return joint, (np.log(total) + peak)[:, 0]


def moments(posteriors: Reals, x: Reals) -> tuple[Reals, Reals, Reals]:
    """Σγ as K×1, Σγx and Σγx² as K×D."""
    return posteriors.sum(axis=0)[:, np.newaxis], posteriors.T @ x, posteriors.T @ np.square(x)


def _step(
    features: Features, origin: Reals, weights: Reals, means: Reals, variances: Reals
) -> tuple[Reals, Reals, Reals]:
    """One step of expectation–maximisation; means about the origin."""
    mass, first, second = np.zeros((len(means), 1)), np.zeros(means.shape), np.zeros(means.shape)
    for x in _blocks(features, origin):
        for total, part in zip(
            (mass, first, second), moments(_posteriors(x, weights, means, variances)[0], x), strict=True
        ):
            total += part
    kept = mass < _LEAST
    held = np.maximum(mass, _LEAST)
    moved = np.where(kept, means, first / held)
    spread = np.where(kept, variances, second / held - moved**2)
    # A share of a feature for a component that has lost all, as its logarithm and root are taken.
    share = np.maximum(mass[:, 0], np.finfo(np.float32).eps)
    return share / share.sum(), moved, spread


def _of_clusters(
    features: Features, nearest: NDArray[np.int64], origin: Reals, means: Reals, spread: Reals
) -> tuple[Reals, Reals]:
    """Weights and variances of the clusters of k-means; a cluster of few features has the variances of all."""
    counts = np.bincount(nearest, minlength=len(means))[:, np.newaxis]
    squares = np.zeros(means.shape)
    for start, x in zip(range(0, len(features), _BLOCK), _blocks(features, origin), strict=True):
        words = nearest[start : start + _BLOCK]
        one_hot = words[:, np.newaxis] == np.arange(len(means))
        squares += one_hot.T.astype(np.float64) @ np.square(x - means[words])
    variances = np.where(counts > 1, squares / np.maximum(counts, 1), spread)
    return (np.maximum(counts, 1) / np.maximum(counts, 1).sum())[:, 0], variances
