"""Fisher vectors over a diagonal Gaussian mixture (survey §4.2.1, Eq. 6–8; Perronnin, Sánchez & Mensink, ECCV 2010)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import chain, groupby, pairwise
from operator import add, itemgetter
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.embedding.democratic import power_normalise
from resight.embedding.embedding import Features, Weights, join, join_weights, weighted_batches
from resight.embedding.gmm import Gmm, Reals
from resight.errors import RecipeError

__all__ = ["Fisher", "Gmm"]

Real = TypeVar("Real", np.float32, np.float64)

KIND = "fisher-vector"
_BATCH = 2048  # features at a time, few enough that their posteriors stay in the cache
_NEGLIGIBLE = 1e-10  # beside a feature's largest posterior: the power law's root would make it 1e-5
_ALONE = 1e-4  # all other posteriors beside the largest, below which their exact share does not matter
_FEW = 1 / 20  # share of the posteriors that count, up to which it is quicker to go through these
# How far components lie from the origin, as their mean of (μ/σ)², up to which float32 products about it have the
# digits of sums, and those to tell which posteriors count. Mixtures of ℓ2-normalised features reach 1 to 15.
_REACH_OF_SUMS, _REACH = 4.0, 1e4


@dataclass(frozen=True, eq=False)
class Fisher:
    """Gradients of a set's mean log-likelihood, sign(z)·|z|^power, ℓ2: the improved Fisher vector.

        g_wk = 1/(T√w_k)   Σ_t [γ_k(x_t) − w_k]
        g_μk = 1/(T√w_k)   Σ_t γ_k(x_t) (x_t − μ_k)/σ_k
        g_σk = 1/(T√2w_k)  Σ_t γ_k(x_t) [((x_t − μ_k)/σ_k)² − 1]

    The survey prints Eq. 7 with the posterior γ outside its sum, and in its second part μ_i for μ_k. Here γ is inside,
    as it depends on t (Sánchez et al., IJCV 2013, Eq. 16–18). The vector is [g_w, g_μ, g_σ] as in Eq. 8, component by
    component within each part; without g_w, which adds little, unless ``by_weight``.
    """

    gmm: Gmm
    power: float = 0.5
    by_weight: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.power <= 1:
            raise ValueError(f"power must be above 0 and at most 1, not {self.power}")

    @classmethod
    def fit(
        cls,
        features: Features,
        components: int = 64,
        *,
        seed: int,
        fitted_on: str,
        power: float = 0.5,
        by_weight: bool = False,
    ) -> Self:
        """Learn the mixture of N×D features. Raises as ``Gmm.fit``."""
        return cls(Gmm.fit(features, components, seed=seed, fitted_on=fitted_on), power, by_weight)

    @property
    def dimension(self) -> int:
        """2·K·D, the length of what ``transform`` returns; and K ``by_weight``."""
        return 2 * self.gmm.means.size + len(self.gmm.means) * self.by_weight

    @property
    def input_dimension(self) -> int:
        """D, the length of a feature."""
        return int(self.gmm.means.shape[1])

    @property
    def fitted_on(self) -> str:
        """What the mixture was learned from."""
        return self.gmm.fitted_on

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind, the mixture and the options, in hex; ``fitted_on`` does not enter."""
        return artefact_fingerprint(KIND, self._tensors())

    def transform(self, features: Features) -> Features:
        """n×D to (2·K·D,) float32, ℓ2-normalised; zeros for no features.

        Mostly worked out in float32: less than 1e-4 off the vector of float64, in ℓ2 norm, and seldom above 1e-5.
        Raises ValueError for another D, or features too far from the mixture for a float32 density.
        """
        vector: Features = self.transform_sets([features])[0]
        return vector

    def transform_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> Features:
        """N sets of n_i×D features to N×2·K·D float32. Raises as ``transform``.

        weights: of each x_t in the sums, whose total then stands for T, as ``Embedding`` has them.
        """
        vectors = np.empty((len(sets), self.dimension), np.float32)
        parts = [
            (row, features[start : start + _BATCH])
            for row, features in enumerate(sets)
            for start in range(0, max(1, len(features)), _BATCH)
        ]
        joined = weighted_batches((part for _, part in parts), join_weights(sets, weights), _BATCH)
        moments = chain.from_iterable(
            self._moments.of_sets(*join(batch, self.input_dimension), own) for batch, own in joined
        )
        counts = [float(len(x)) for x in sets] if weights is None else [float(own.sum()) for own in weights]
        for row, own in groupby(zip((row for row, _ in parts), moments, strict=True), itemgetter(0)):
            gradients = self._gradients(reduce(add, (part for _, part in own)), counts[row])
            vectors[row] = power_normalise(gradients, self.power)
        return vectors

    def _gradients(self, moments: Reals, count: float) -> Reals:
        """[g_w, g_μ, g_σ] from the ``_Moments`` of T = count features, less 1/T, which the norm takes out."""
        weights, mass = self.gmm.weights.astype(np.float64)[:, np.newaxis], moments[:, -1:]
        by_mean, by_deviation = np.hsplit(moments[:, :-1] * self._scales, 2)
        by_deviation -= mass / np.sqrt(2 * weights)
        by_weight = [(mass - count * weights) / np.sqrt(weights)] if self.by_weight else []
        return np.concatenate([part.ravel() for part in (*by_weight, by_mean, by_deviation)])

    @cached_property
    def _scales(self) -> Reals:
        """[1/(√w·σ), 1/(√2w·σ²)], K×2·D."""
        weights, variances = self.gmm.weights.astype(np.float64)[:, np.newaxis], self.gmm.variances.astype(np.float64)
        return 1 / np.concatenate([np.sqrt(weights * variances), np.sqrt(2 * weights) * variances], axis=1)

    @cached_property
    def _moments(self) -> "_Moments":
        return _Moments(self.gmm)

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        return save_artefact(path, KIND, self._tensors(), {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        tensors, meta = load_artefact(path, KIND)
        try:
            gmm = Gmm(tensors["weights"], tensors["means"], tensors["variances"], str(meta["fitted_on"]))
            return cls(gmm, float(tensors["power"]), bool(tensors["by_weight"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a Fisher vector that this version can use: {error}") from error

    def _tensors(self) -> dict[str, NDArray[np.generic]]:
        return {
            "weights": self.gmm.weights,
            "means": self.gmm.means,
            "variances": self.gmm.variances,
            "power": np.array(self.power),
            "by_weight": np.array(self.by_weight),
        }


class _Moments:
    """Σ γ_k(x)·[d, d², 1] over a set, where d = x − μ_k: K×(2·D + 1) float64.

    Log-densities are linear in [x, x², 1], and those of all features and components one matrix product, in float32
    about the mixture's origin. Most posteriors of descriptors are then next to 0 and left out, as VLFeat leaves out
    those below 1e-6 (vl_fisher_encode in vl/fisher.c); the others are summed from their differences.
    """

    def __init__(self, gmm: Gmm) -> None:
        self.gmm, self.means, self.origin = gmm, gmm.means, gmm.origin.astype(np.float32)
        self.away = gmm.means.astype(np.float64) - self.origin
        precisions = 1 / gmm.variances.astype(np.float64)
        self.reach = float(gmm.weights @ (self.away**2 * precisions).mean(axis=1))
        peaks = np.log(gmm.weights.astype(np.float64)) + np.log(precisions).sum(axis=1) / 2
        at_origin = peaks - (self.away**2 * precisions).sum(axis=1) / 2
        slopes = [self.away * precisions, -precisions / 2, at_origin[:, np.newaxis]]
        self.slopes = np.concatenate(slopes, axis=1, dtype=np.float32).T.copy()
        self.peaks, self.half_precisions = peaks.astype(np.float32), (precisions / 2).astype(np.float32)

    def of_sets(
        self, features: Features, bounds: NDArray[np.int64], weights: NDArray[np.float32] | None
    ) -> Iterator[Reals]:
        """Of each of the sets that ``join`` has joined; γ(x) times x's weight, where there are weights."""
        with np.errstate(over="ignore", invalid="ignore"):
            powers = _powers(features, self.origin)
            joint = powers @ self.slopes
        largest = np.take_along_axis(joint, joint.argmax(axis=1, keepdims=True), axis=1)
        if not np.isfinite(largest).all():
            raise ValueError("features lie too far from the mixture for a float32 density: scale them as those fitted")
        counts = np.flatnonzero(joint > largest + np.float32(np.log(_NEGLIGIBLE)))
        crowded = len(counts) > _FEW * joint.size
        if self.reach > _REACH or (crowded and self.reach > _REACH_OF_SUMS):
            exact = _powers(features.astype(np.float64), self.origin)
            return self._of_all(exact, self.gmm.posteriors(features), bounds, weights)
        if crowded:
            joint -= largest
            np.exp(joint, out=joint)
            joint /= joint.sum(axis=1, keepdims=True)
            return self._of_all(powers, joint, bounds, weights)
        rows, own = np.divmod(counts, len(self.means))
        return self._of_few(features, joint.ravel()[counts], largest[:, 0], rows, own, bounds, weights)

    def _of_few(
        self,
        features: Features,
        joint: Features,
        largest: Features,
        rows: NDArray[np.int64],
        own: NDArray[np.int64],
        bounds: NDArray[np.int64],
        weights: NDArray[np.float32] | None,
    ) -> Iterator[Reals]:
        """Of the pairs of a feature and a component that count, in order; `largest` is of all features."""
        components, size = self.means.shape
        powers = _powers(features.take(rows, axis=0), self.means.take(own, axis=0))
        posteriors = np.exp(joint - largest[rows])
        # Far from the origin the product has lost digits that the differences have; γ of 1 needs none.
        rival = np.flatnonzero((np.bincount(rows, posteriors) > 1 + _ALONE)[rows])
        falls = np.einsum("md,md->m", powers[rival, size:-1], self.half_precisions[own[rival]])
        posteriors[rival] = np.exp(self.peaks[own[rival]] - falls - largest[rows[rival]])
        posteriors /= np.bincount(rows, posteriors)[rows]
        if weights is not None:
            posteriors *= weights[rows]
        for start, stop in pairwise(np.searchsorted(rows, bounds)):
            places = np.arange(stop - start + 1)
            pairs = csc_array((posteriors[start:stop], own[start:stop], places), shape=(components, stop - start))
            yield (pairs @ powers[start:stop]).astype(np.float64)

    def _of_all(
        self,
        powers: NDArray[np.floating],
        posteriors: NDArray[np.floating],
        bounds: NDArray[np.int64],
        weights: NDArray[np.float32] | None,
    ) -> Iterator[Reals]:
        """By products, of powers about the origin and all n×K posteriors."""
        if weights is not None:
            posteriors = posteriors * weights[:, np.newaxis]
        size = self.means.shape[1]
        for start, stop in pairwise(bounds):
            moments = (posteriors[start:stop].T @ powers[start:stop]).astype(np.float64)
            first, second, mass = np.split(moments, [size, 2 * size], axis=1)  # views
            second -= self.away * first
            first -= self.away * mass
            second -= self.away * first
            yield moments


def _powers(x: NDArray[Real], origin: Features) -> NDArray[Real]:
    """[d, d², 1] of d = x − origin, n×D to n×(2·D + 1), of the type of x."""
    n, size = x.shape
    powers = np.empty((n, 2 * size + 1), x.dtype)
    np.subtract(x, origin, out=powers[:, :size])
    np.square(powers[:, :size], out=powers[:, size:-1])
    powers[:, -1] = 1
    return powers
