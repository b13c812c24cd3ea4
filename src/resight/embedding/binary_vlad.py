"""Binary VLAD: the signs of a set's summed residuals, compared by Hamming distance word by word.

The survey's [109] (§4.2.1) puts a Hamming distance in place of the Euclidean one of BoW and VLAD. Here the signs are
those of ASMK* (Tolias, Avrithis & Jégou, ICCV 2013) without its selectivity; ours is to keep words that a set lacks
apart from both signs, so that the similarity is a cosine of vectors with entries −1, 0 and 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.embedding.codebook import Codebook, codebook_of, codebook_tensors
from resight.embedding.embedding import Features, Weights, join_weights, weighted_batches
from resight.embedding.vlad import residual_sums
from resight.errors import RecipeError

KIND = "binary-vlad"
_BATCH = 4096  # features at a time, few enough that their residuals stay in the cache


@dataclass(frozen=True, eq=False)
class Codes:
    """N sets. held: N×W bool, whether a set has a residual at a word. bits: N×W×⌈D/8⌉ uint8, the packed signs there,
    zeros elsewhere.
    """

    held: NDArray[np.bool_]
    bits: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.held)


@dataclass(frozen=True, eq=False)
class BinaryVlad:
    """Sign-quantised sums of residuals at each of W words: 1 bit an entry, 1/32 of VLAD.

    An entry of 0 counts as positive, as in ASMK*; a sum of zeros only counts as a word that the set lacks.
    """

    codebook: Codebook

    @classmethod
    def fit(cls, features: Features, words: int = 64, *, seed: int, fitted_on: str) -> Self:
        """Learn the words by k-means of N×D features. Raises ValueError for fewer features than words."""
        return cls(Codebook.fit(features, words, seed=seed, fitted_on=fitted_on, cells=1))

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
        """sha256 of the kind and the words, in hex; ``fitted_on`` does not enter."""
        return artefact_fingerprint(KIND, codebook_tensors(self.codebook))

    def transform(self, features: Features) -> Features:
        """n×D to (W·D,) float32: −1, 0 and 1, ℓ2-normalised; zeros for no features. ValueError for another D."""
        vector: Features = self.transform_sets([features])[0]
        return vector

    def transform_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> Features:
        """N sets of n_i×D features to N×W·D float32, whose inner products are ``similarity`` of their codes."""
        codes = self.encode_sets(sets, weights)
        signs = np.unpackbits(codes.bits, axis=2, count=self.input_dimension).astype(np.float32)
        signs = (2 * signs - 1) * codes.held[:, :, np.newaxis]
        norm = np.sqrt(np.maximum(codes.held.sum(axis=1), 1) * self.input_dimension)
        vectors: Features = (signs.reshape(len(codes), self.dimension) / norm[:, np.newaxis]).astype(np.float32)
        return vectors

    def encode_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> Codes:
        """N sets of n_i×D features to their codes. weights: of residuals, as ``Embedding`` has them."""
        held = [np.empty((0, len(self.codebook)), np.bool_)]
        bits = [np.empty((0, len(self.codebook), -(-self.input_dimension // 8)), np.uint8)]
        for batch, own in weighted_batches(sets, join_weights(sets, weights), _BATCH):
            sums = residual_sums(batch, self.codebook, own)
            present = np.asarray(sums.any(axis=2))
            held.append(present)
            bits.append(np.packbits((sums >= 0) & present[:, :, np.newaxis], axis=2))
        return Codes(np.concatenate(held), np.concatenate(bits))

    def similarity(self, a: Codes, b: Codes) -> NDArray[np.float64]:
        """Σ_w (D − 2h_w) / (D √(m_a m_b)) over words that both hold, of Hamming distance h_w; m words in all. |a|×|b|.

        1 for a set with itself, 0 for a set without words.
        """
        agreement = np.empty((len(a), len(b)))
        for row, (held, bits) in enumerate(zip(a.held, a.bits, strict=True)):  # one row's differences fit in memory
            differing = np.bitwise_count(bits ^ b.bits).sum(axis=2, dtype=np.int64)
            agreement[row] = ((self.input_dimension - 2 * differing) * (held & b.held)).sum(axis=1)
        words = [np.maximum(codes.held.sum(axis=1), 1) for codes in (a, b)]
        return np.asarray(agreement / (self.input_dimension * np.sqrt(np.outer(*words))), np.float64)

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        return save_artefact(path, KIND, codebook_tensors(self.codebook), {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        tensors, meta = load_artefact(path, KIND)
        try:
            return cls(codebook_of(tensors, str(meta["fitted_on"])))
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a binary VLAD that this version can use: {error}") from error
