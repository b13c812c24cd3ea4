"""T-embedding: a feature by its directions from all centroids (survey §4.2.1; Jégou & Zisserman, CVPR 2014, §3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.embedding.democratic import Aggregation, aggregate, power_normalise
from resight.embedding.embedding import Features, Weights, join_weights
from resight.errors import RecipeError

KIND = "triangulation-embedding"
_BLOCK = 1024  # features embedded at a time
_FLAT = 1e-9  # of the largest variance; less may be float32's rounding, which whitening would blow up


@dataclass(frozen=True, eq=False)
class Triangulation:
    """φ(x) = Σ^{-1/2} (R(x) − R̄), R(x) the unit vectors from each centroid to x; a set is Σ λ_i φ(x_i), power, ℓ2.

    centroids: C×D float32.
    mean: (C·D,) float32, R̄. projection: K×C·D float32, rows of Σ^{-1/2}'s eigenbasis.
    aggregation: ``democratic`` or ``sum``. power: exponent of the power law, 1 for none.
    fitted_on: what it was learned from, in words.

    The paper's final "rotation and normalisation" is PCA of these vectors: fit a projection on them for it.
    """

    centroids: Features
    mean: Features
    projection: Features
    fitted_on: str
    aggregation: Aggregation = "democratic"
    power: float = 0.5

    def __post_init__(self) -> None:
        if self.centroids.ndim != 2 or self.mean.shape != (self.centroids.size,):
            raise ValueError(f"centroids must be C×D and mean (C·D,), not {self.centroids.shape}, {self.mean.shape}")
        check_options(self.projection, self.mean, self.aggregation, self.power)

    @classmethod
    def fit(
        cls,
        features: Features,
        centroids: Features,
        *,
        seed: int,
        fitted_on: str,
        drop: int | None = None,
        sample: int = 100_000,
        aggregation: Aggregation = "democratic",
        power: float = 0.5,
    ) -> Self:
        """Learn the whitening of R from N×D features and C×D centroids, which are k-means' in the paper.

        drop: how many of the first principal axes to leave out; by default D, as in the paper: they hold what all
            features share. Axes without variance are left out too. So K is at most C·D − drop.
        sample: at most so many features are used, drawn with ``seed``.
        The covariance takes (C·D)² float64 values: 0.5 GB for 64 centroids of SIFT.
        Raises RecipeError unless there are more features than C·D, and ValueError for other shapes.
        """
        drawn = draw(features, sample, seed)
        check_features(centroids, drawn.shape[1], "centroids")
        centroids = np.asarray(centroids, np.float32)
        drop = centroids.shape[1] if drop is None else drop
        mean, projection = learn_whitening(lambda block: directions(block, centroids), drawn, drop)
        return cls(centroids, mean, projection, fitted_on, aggregation, power)

    @property
    def dimension(self) -> int:
        """K, the length of what ``transform`` returns."""
        return len(self.projection)

    @property
    def input_dimension(self) -> int:
        """D, the length of a feature."""
        return int(self.centroids.shape[1])

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind, the learned values and the options, in hex; ``fitted_on`` does not enter."""
        return artefact_fingerprint(KIND, self._tensors())

    def transform(self, features: Features) -> Features:
        """n×D to (K,) float32, ℓ2-normalised; zeros for no features."""
        vector: Features = self.transform_sets([features])[0]
        return vector

    def transform_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> Features:
        """N sets of n_i×D features to N×K float32, weights as ``Embedding`` has them. ValueError for another D."""
        for features in sets:
            check_features(features, self.input_dimension)
        return encode_sets(
            lambda x: directions(x, self.centroids),
            self.mean,
            self.projection,
            sets,
            weights,
            self.aggregation,
            self.power,
        )

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        return save_artefact(path, KIND, self._tensors(), {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        tensors, meta = load_artefact(path, KIND)
        try:
            return cls(
                tensors["centroids"],
                tensors["mean"],
                tensors["projection"],
                str(meta["fitted_on"]),
                "democratic" if tensors["democratic"] else "sum",
                float(tensors["power"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a T-embedding that this version can use: {error}") from error

    def _tensors(self) -> dict[str, NDArray[np.generic]]:
        return {
            "centroids": self.centroids,
            "mean": self.mean,
            "projection": self.projection,
            "democratic": np.array(self.aggregation == "democratic"),
            "power": np.array(self.power),
        }


def directions(features: Features, centroids: Features) -> Features:
    """R(x): the unit vectors from each of C centroids to each of n features, n×C·D; zero where they coincide."""
    residuals = features[:, np.newaxis] - centroids
    norm = np.linalg.norm(residuals, axis=2, keepdims=True)
    unit = np.asarray(residuals / np.where(norm > 0, norm, 1), np.float32)
    return unit.reshape(len(features), centroids.size)


def learn_whitening(embed: Callable[[Features], Features], features: Features, drop: int) -> tuple[Features, Features]:
    """Mean (P,) and whitening axes K×P of ``embed``, n×D to n×P, over N×D features.

    The axes are those of the covariance, by falling variance, without the first ``drop`` and those of no variance,
    divided by their standard deviations; the entry of an axis that is largest by magnitude is positive.
    Raises RecipeError unless N is above P and an axis is left.
    """
    n, width = len(features), embed(features[:1]).shape[1]
    if n <= width:
        raise RecipeError(
            f"whitening {width} components is learned from more than {width} features, better many times as many; "
            f"here are {n}: give more images, fewer centroids, or features of fewer dimensions"
        )
    blocks = [features[start : start + _BLOCK] for start in range(0, n, _BLOCK)]
    mean = sum((embed(block).sum(axis=0, dtype=np.float64) for block in blocks), np.zeros(width)) / n
    scatter = np.zeros((width, width))
    for block in blocks:
        centred = embed(block) - mean
        scatter += centred.T @ centred
    variances, axes = np.linalg.eigh(scatter / (n - 1))
    kept = np.flatnonzero(variances > _FLAT * variances[-1])[::-1][drop:]
    if len(kept) == 0:
        raise RecipeError(f"none of {width} components is left after the first {drop}: lower `drop`")
    basis = axes.T[kept]
    peaks = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, np.newaxis], axis=1)
    scale = np.sign(peaks) / np.sqrt(variances[kept])[:, np.newaxis]
    return mean.astype(np.float32), (basis * scale).astype(np.float32)


def encode_sets(
    embed: Callable[[Features], Features],
    mean: Features,
    projection: Features,
    sets: Sequence[Features],
    weights: Weights | None,
    aggregation: Aggregation,
    power: float,
) -> Features:
    """N×K: each set's features embedded, whitened, aggregated, raised to ``power`` and ℓ2-normalised.

    weights: by which whitened features are multiplied, after what makes their aggregation democratic.
    """
    flat = join_weights(sets, weights)
    bounds = np.cumsum([0, *map(len, sets)])
    counted = [None if flat is None else flat[start:stop] for start, stop in pairwise(bounds)]
    totals = np.zeros((len(sets), len(projection)))
    if aggregation == "sum":  # whitening is affine, so it may follow the sum: one product for all sets
        sums = np.zeros((len(sets), len(mean)))
        for row, (features, own) in enumerate(zip(sets, counted, strict=True)):
            for start in range(0, len(features), _BLOCK):
                centred = embed(features[start : start + _BLOCK]) - mean
                if own is not None:
                    centred *= own[start : start + _BLOCK, np.newaxis]
                sums[row] += centred.sum(axis=0, dtype=np.float64)
        totals = sums @ projection.T
    else:
        for row, (features, own) in enumerate(zip(sets, counted, strict=True)):
            whitened = np.empty((len(features), len(projection)), np.float32)
            for start in range(0, len(features), _BLOCK):
                block = slice(start, start + _BLOCK)
                whitened[block] = (embed(features[block]) - mean) @ projection.T
            totals[row] = aggregate(whitened, aggregation, own)
    return power_normalise(totals, power)


def draw(features: Features, sample: int, seed: int) -> Features:
    """At most ``sample`` of N×D features, in their order. Raises RecipeError for none, ValueError as check_features."""
    check_features(features, None)
    if len(features) == 0:
        raise RecipeError("there are no features to learn an embedding from: give more images")
    if len(features) > sample:
        chosen = np.random.default_rng(seed).choice(len(features), sample, replace=False)
        features = features[np.sort(chosen)]
    return np.asarray(features, np.float32)


def check_features(features: Features, dimension: int | None, name: str = "features") -> None:
    """Raises ValueError unless they are n×``dimension``, any where None, and finite."""
    if features.ndim != 2 or (dimension is not None and features.shape[1] != dimension):
        raise ValueError(f"{name} must be n×{dimension or 'D'}, not of shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} must be finite")


def check_options(projection: Features, mean: Features, aggregation: Aggregation, power: float) -> None:
    """Raises ValueError for a projection that does not fit, another aggregation, or a power outside (0, 1]."""
    if projection.ndim != 2 or projection.shape[1] != len(mean):
        raise ValueError(f"projection must be K×{len(mean)}, not {projection.shape}")
    if aggregation not in ("sum", "democratic"):
        raise ValueError(f"aggregation must be 'sum' or 'democratic', not {aggregation!r}")
    if not 0 < power <= 1:
        raise ValueError(f"power must be above 0 and at most 1, not {power}")
