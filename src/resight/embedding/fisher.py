"""Fisher vectors over a diagonal Gaussian mixture (survey §4.2.1, Eq. 6–8; Perronnin, Sánchez & Mensink, ECCV 2010)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.embedding.democratic import power_normalise
from resight.embedding.embedding import Features, batches, join
from resight.embedding.gmm import Gmm, Reals, moments
from resight.errors import RecipeError

__all__ = ["Fisher", "Gmm"]

KIND = "fisher-vector"
_BATCH = 2048  # features at a time, few enough that their posteriors stay in the cache


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
        """n×D to (2·K·D,) float32, ℓ2-normalised; zeros for no features. Raises ValueError for another D."""
        vector: Features = self.transform_sets([features])[0]
        return vector

    def transform_sets(self, sets: Sequence[Features]) -> Features:
        """N sets of n_i×D features to N×2·K·D float32."""
        vectors = np.empty((len(sets), self.dimension), np.float32)
        row = 0
        for batch in batches(sets, _BATCH):
            features, bounds = join(batch, self.input_dimension)
            posteriors = self.gmm.posteriors(features)
            centred = features - self.gmm.origin
            for start, stop in pairwise(bounds):
                gradients = self._gradients(posteriors[start:stop], centred[start:stop])
                vectors[row] = power_normalise(gradients, self.power)
                row += 1
        return vectors

    def _gradients(self, posteriors: Reals, centred: Reals) -> Reals:
        """[g_w, g_μ, g_σ] of T posteriors and features, by Σγ, Σγx and Σγx² about the mixture's origin."""
        if len(posteriors) == 0:
            return np.zeros(self.dimension)
        weights, variances = self.gmm.weights.astype(np.float64), self.gmm.variances.astype(np.float64)
        means = self.gmm.means - self.gmm.origin
        mass, first, second = moments(posteriors, centred)
        mean_gap = first - mass * means
        spread = second - 2 * means * first + mass * means**2
        scale = 1 / (len(posteriors) * np.sqrt(weights))[:, np.newaxis]
        parts = [scale * mean_gap / np.sqrt(variances), scale * (spread / variances - mass) / np.sqrt(2)]
        if self.by_weight:
            parts.insert(0, scale * (mass - len(posteriors) * weights[:, np.newaxis]))
        return np.concatenate([part.ravel() for part in parts])

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
