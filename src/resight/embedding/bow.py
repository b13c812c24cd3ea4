"""Bag of visual words: how often a set's features fall on each word (survey §4.2.1, Eq. 1–3; Sivic & Zisserman)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.embedding.codebook import Codebook, codebook_of, codebook_tensors
from resight.embedding.embedding import Features, Weights, batches, join, join_weights, weighted_batches
from resight.errors import RecipeError

KIND = "bag-of-words"
_BATCH = 65_536  # features assigned at a time: a large codebook is quicker with many


@dataclass(frozen=True, eq=False)
class Bow:
    """tf·idf over W words, ℓ2-normalised; Eq. 1's 1/T then changes nothing.

    idf: (W,) float32, log(N/n_w) as ``fit_idf`` counts them; None weights all words alike.
    assignments: 1 is Eq. 2. More is soft assignment: a feature counts at its nearest words by exp(−d²/2σ²), which
        then sum to 1 (Philbin et al., CVPR 2008).
    sigma: σ in the features' units. None, which is ours and needs no unit: each feature's distance to its nearest word.
    root: take the square root of tf, against bursts of one word (Jégou, Douze & Schmid, CVPR 2009).
    """

    codebook: Codebook
    idf: Features | None = None
    assignments: int = 1
    sigma: float | None = None
    root: bool = False

    def __post_init__(self) -> None:
        if self.idf is not None and self.idf.shape != (len(self.codebook),):
            raise ValueError(f"idf must be ({len(self.codebook)},), not {self.idf.shape}")
        if self.assignments < 1 or (self.sigma is not None and self.sigma <= 0):
            raise ValueError(f"assignments must be 1 or more and sigma above 0, not {self.assignments}, {self.sigma}")

    @classmethod
    def fit(
        cls,
        features: Features,
        words: int,
        *,
        seed: int,
        fitted_on: str,
        assignments: int = 1,
        sigma: float | None = None,
        root: bool = False,
    ) -> Self:
        """Learn the words from N×D features, without idf. Raises ValueError for fewer features than words."""
        codebook = Codebook.fit(features, words, seed=seed, fitted_on=fitted_on)
        return cls(codebook, None, assignments, sigma, root)

    def fit_idf(self, sets: Iterable[Features]) -> Self:
        """The same with log(N/n_w) of N sets, read once, n_w of which hold word w; 0 for a word that none holds.

        A set holds each word that a feature of it counts for, however little (Philbin et al. 2008, §3.3).
        Raises RecipeError where there is no set, ValueError for features that do not fit.
        """
        held = np.zeros(len(self.codebook), np.int64)
        n = 0
        for batch in batches(sets, _BATCH):
            held += np.bincount(self._counts(batch).indices, minlength=len(held))
            n += len(batch)
        if n == 0:
            raise RecipeError("idf is counted over sets of features, and there are none: give more images")
        idf = np.where(held > 0, np.log(n / np.maximum(held, 1)), 0.0).astype(np.float32)
        return replace(self, idf=idf)

    @property
    def dimension(self) -> int:
        """W, the length of what ``transform`` returns."""
        return len(self.codebook)

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
        """sha256 of the kind, the learned values and the options, in hex; ``fitted_on`` does not enter."""
        return artefact_fingerprint(KIND, self._tensors())

    def memberships(self, features: Features) -> Features:
        """n×D to n×W float32: how much each feature counts for each word, 1 in all; without idf."""
        words, weights = self._assigned(join([features], self.input_dimension)[0])
        row, column = np.nonzero(weights)
        dense = np.zeros((len(features), self.dimension), np.float32)
        dense[row, words[row, column]] = weights[row, column]
        return dense

    def transform(self, features: Features) -> Features:
        """n×D to (W,) float32, ℓ2-normalised; zeros for no features. Raises ValueError for another D."""
        vector: Features = self.transform_sets([features])[0]
        return vector

    def transform_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> Features:
        """N sets of n_i×D features to N×W float32. weights: of what features count, as ``Embedding`` has them."""
        joined = weighted_batches(sets, join_weights(sets, weights), _BATCH)
        dense: Features = self._stacked(self._counts(batch, own) for batch, own in joined).toarray()
        return dense

    def transform_sparse(self, sets: Iterable[Features]) -> csr_array:
        """N sets of n_i×D features, read once, to N×W float32 rows of ascending words, which take the sets' memory."""
        return self._stacked(self._counts(batch) for batch in batches(sets, _BATCH))

    def _stacked(self, counts: Iterable[csr_array]) -> csr_array:
        parts = [self._weighted(each) for each in counts]
        return csr_array(vstack([csr_array((0, self.dimension), dtype=np.float32), *parts], format="csr"))

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        return save_artefact(path, KIND, self._tensors(), {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        tensors, meta = load_artefact(path, KIND)
        try:
            return cls(
                codebook_of(tensors, str(meta["fitted_on"])),
                tensors.get("idf"),
                int(tensors["assignments"]),
                float(tensors["sigma"]) if "sigma" in tensors else None,
                bool(tensors["root"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a bag of words that this version can use: {error}") from error

    def _assigned(self, features: Features) -> tuple[NDArray[np.int64], Features]:
        """The nearest words of n features and what each counts, n×k; 0 where the codebook found no word."""
        words = self.codebook.assign(features, self.assignments)
        weights = (words >= 0).astype(np.float32)
        if self.assignments == 1:
            return words, weights
        squared = np.empty(words.shape)
        for place in range(words.shape[1]):  # the words one by one, as all residuals take k times the features
            squared[:, place] = np.square(features - self.codebook.words[words[:, place]]).sum(axis=1)
        least = squared[:, :1]
        variance = least if self.sigma is None else self.sigma**2
        # Less the least, so that a feature far from all words does not lose its weights to underflow.
        weights *= np.exp((least - squared) / np.maximum(2 * variance, np.finfo(np.float32).tiny))
        return words, weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def _counts(self, sets: Sequence[Features], counted: NDArray[np.float32] | None = None) -> csr_array:
        """tf of N sets, N×W. counted: how much each feature of all sets counts."""
        features, bounds = join(sets, self.input_dimension)
        words, weights = self._assigned(features)
        weights = weights if counted is None else weights * counted[:, np.newaxis]
        owner = np.repeat(np.arange(len(sets)), np.diff(bounds))
        row, column = np.nonzero(weights)
        counts = csr_array((weights[row, column], (owner[row], words[row, column])), shape=(len(sets), self.dimension))
        counts.sum_duplicates()
        return counts

    def _weighted(self, counts: csr_array) -> csr_array:
        """idf and ℓ2 of tf."""
        data = np.sqrt(counts.data) if self.root else counts.data
        if self.idf is not None:
            data = data * self.idf[counts.indices]
        rows = csr_array((data.astype(np.float64), counts.indices, counts.indptr), shape=counts.shape)
        rows.eliminate_zeros()
        row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        norm = np.sqrt(np.bincount(row, weights=np.square(rows.data), minlength=rows.shape[0]))
        rows.data = (rows.data / norm[row]).astype(np.float32)
        return rows

    def _tensors(self) -> dict[str, NDArray[np.generic]]:
        tensors = codebook_tensors(self.codebook)
        tensors |= {"assignments": np.array(self.assignments), "root": np.array(self.root)}
        tensors |= {} if self.idf is None else {"idf": self.idf}
        return tensors | ({} if self.sigma is None else {"sigma": np.array(self.sigma)})
