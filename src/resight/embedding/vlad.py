"""VLAD: the sum of a set's residuals at each visual word (survey §4.2.1, Eq. 4–5; Jégou et al., CVPR 2010)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.embedding.codebook import Codebook, codebook_of, codebook_tensors
from resight.embedding.democratic import power_normalise
from resight.embedding.embedding import Features, Weights, join, join_weights, weighted_batches
from resight.errors import RecipeError

KIND = "vlad"
_BATCH = 4096  # features at a time, few enough that their residuals stay in the cache

Normalisation = Literal["residual", "power", "intra"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
_POWER: tuple[Normalisation, ...] = ("power",)


@dataclass(frozen=True, eq=False)
class Vlad:
    """g(c) = Σ_{x at c} (x − c) for each of W words, joined and ℓ2-normalised. Eq. 4's 1/T then changes nothing.

    normalisations, any of these, applied in this order:
        ``residual``: each x − c is ℓ2-normalised before the sum (Delhumeau et al., ACM MM 2013);
        ``power``: each entry z becomes sign(z)·|z|^alpha (Jégou et al., TPAMI 2012);
        ``intra``: each g(c) is ℓ2-normalised (Arandjelović & Zisserman, CVPR 2013).
    alpha: in (0, 1], of ``power`` only.
    """

    codebook: Codebook
    normalisations: Collection[Normalisation] = _POWER
    alpha: float = 0.5

    def __post_init__(self) -> None:
        unknown = set(self.normalisations) - set(NORMALISATIONS)
        if unknown:
            raise ValueError(f"normalisations must be among {', '.join(NORMALISATIONS)}, not {sorted(unknown)}")
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, not {self.alpha}")

    @classmethod
    def fit(
        cls,
        features: Features,
        words: int = 64,
        *,
        seed: int,
        fitted_on: str,
        normalisations: Collection[Normalisation] = _POWER,
        alpha: float = 0.5,
    ) -> Self:
        """Learn the words by k-means of N×D features. Raises ValueError for fewer features than words."""
        codebook = Codebook.fit(features, words, seed=seed, fitted_on=fitted_on, cells=1)
        return cls(codebook, normalisations, alpha)

    @property
    def dimension(self) -> int:
        """W·D, the length of what ``transform`` returns."""
        return len(self.codebook) * self.input_dimension

    @property
    def input_dimension(self) -> int:
        """D, the length of a feature."""
        return self.codebook.dimension

    @property
    def fitted_on(self) -> str:
        """What the words were learned from."""
        return self.codebook.fitted_on

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind, the words and the options, in hex; ``fitted_on`` does not enter."""
        return artefact_fingerprint(KIND, self._tensors())

    def transform(self, features: Features) -> Features:
        """n×D to (W·D,) float32, word by word, ℓ2-normalised; zeros for no features. ValueError for another D."""
        vector: Features = self.transform_sets([features])[0]
        return vector

    def transform_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> Features:
        """N sets of n_i×D features to N×W·D float32. weights: of each x − c, as ``Embedding`` has them."""
        vectors = np.empty((len(sets), self.dimension), np.float32)
        row = 0
        for batch, own in weighted_batches(sets, join_weights(sets, weights), _BATCH):
            sums = residual_sums(batch, self.codebook, own, unit="residual" in self.normalisations)
            if "intra" in self.normalisations:  # which undoes any scale of the power law before it
                sums = power_normalise(sums, self._power)
                sums = power_normalise(sums.reshape(len(batch), -1), 1.0)
            else:
                sums = power_normalise(sums.reshape(len(batch), -1), self._power)
            vectors[row : row + len(batch)] = sums
            row += len(batch)
        return vectors

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        return save_artefact(path, KIND, self._tensors(), {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        tensors, meta = load_artefact(path, KIND)
        try:
            chosen = tuple(name for name in NORMALISATIONS if tensors[name])
            return cls(codebook_of(tensors, str(meta["fitted_on"])), chosen, float(tensors["alpha"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a VLAD that this version can use: {error}") from error

    @property
    def _power(self) -> float:
        return self.alpha if "power" in self.normalisations else 1.0

    def _tensors(self) -> dict[str, NDArray[np.generic]]:
        tensors = codebook_tensors(self.codebook)
        tensors |= {name: np.array(name in self.normalisations) for name in NORMALISATIONS}
        return tensors | {"alpha": np.array(self._power)}


def residual_sums(
    sets: Sequence[Features],
    codebook: Codebook,
    weights: NDArray[np.float32] | None = None,
    *,
    unit: bool = False,
) -> Features:
    """Σ (x − c) over the features x of each set at each word c, N×W×D float32; ``unit``: of ℓ2-normalised residuals.

    weights: of all features, (Σn_i,), by which residuals are multiplied.
    A residual is made before it is summed, so that features that lie on their words give exactly zero. Raises
    ValueError for sets that do not fit the codebook.
    """
    features, bounds = join(sets, codebook.dimension)
    words = codebook.assign(features)[:, 0]
    counted = np.ones(len(words), np.float32) if weights is None else weights
    owner = np.repeat(np.arange(len(sets)), np.diff(bounds))
    if (words < 0).any():
        held = np.flatnonzero(words >= 0)
        features, words, counted, owner = features[held], words[held], counted[held], owner[held]
    residuals = features - codebook.words.take(words, axis=0)
    if unit:
        residuals = power_normalise(residuals, 1.0)
    # One-hot columns times the residuals: a sum by groups, without sorting and without a loop over sets or words.
    one_hot = csc_array(
        (counted, owner * len(codebook) + words, np.arange(len(words) + 1)),
        shape=(len(sets) * len(codebook), len(words)),
    )
    sums: Features = np.asarray(one_hot @ residuals, np.float32)
    return sums.reshape(len(sets), len(codebook), codebook.dimension)
