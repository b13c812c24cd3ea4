"""Hamming embedding as a filter: features match that share a word and whose binary signatures are close.

Jégou, Douze & Schmid, "Hamming embedding and weak geometric consistency for large scale image search", ECCV 2008, §3.1;
"Improving bag-of-features for large scale image search", IJCV 2010, §3 and §4.2 (weighting). Unlike in ASMK, every
feature keeps a code of its own. ``resight.embedding.hamming`` compares two images by the same measure.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from resight.artefact import load_artefact, save_artefact
from resight.embedding.codebook import Codebook
from resight.embedding.hamming import orthogonal
from resight.errors import RecipeError
from resight.hashing.codes import differing, lanes
from resight.local.asmk import Encoding

KIND = "hamming-signer"
_BLOCK = 65_536  # descriptors converted to float32 at a time
_GRID = 2.0**16


@dataclass(frozen=True, eq=False)
class Signer:
    """Signs features: bit i of x at word w is whether (P x)_i > τ_wi (ECCV 2008, §3.1).

    projection: P, B×D float32, B a multiple of 8. Its entries are multiples of 2⁻¹⁶, which makes the products with
        whole-numbered descriptors exact in float64: a feature at the very median, as half of the words have one for
        each bit, is signed alike in whatever batch it comes.
    thresholds: τ, W×B float32, for each word the medians of its training features.
    codebook: the fingerprint of the codebook whose words these are.
    """

    projection: NDArray[np.float32]
    thresholds: NDArray[np.float32]
    codebook: str
    fitted_on: str

    def __post_init__(self) -> None:
        if self.projection.ndim != 2 or self.bits == 0 or self.bits % 8:
            raise ValueError(f"projection must be B×D, B a multiple of 8, not of shape {self.projection.shape}")
        if self.thresholds.ndim != 2 or self.thresholds.shape[1] != self.bits:
            raise ValueError(f"thresholds must be W×{self.bits}, not of shape {self.thresholds.shape}")

    @classmethod
    def fit(
        cls,
        codebook: Codebook,
        descriptors: NDArray[np.uint8 | np.int8 | np.float32],
        bits: int,
        *,
        seed: int,
        fitted_on: str,
    ) -> Self:
        """Draw the projection, and take the medians at each word of N×D descriptors.

        A word that no descriptor is nearest to has its own projection as medians. Raises RecipeError for fewer
        dimensions than bits.
        """
        if bits > codebook.dimension:
            raise RecipeError(
                f"descriptors of {codebook.dimension} dimensions have no {bits} orthogonal projections: ask for fewer "
                "bits in [hamming]"
            )
        rounded = np.round(orthogonal(codebook.dimension, seed)[:bits].astype(np.float64) * _GRID) / _GRID
        signer = cls(rounded.astype(np.float32), np.empty((0, bits), np.float32), codebook.fingerprint, fitted_on)
        thresholds = signer.project(codebook.words)
        blocks = [
            codebook.assign(descriptors[start : start + _BLOCK].astype(np.float32))[:, 0]
            for start in range(0, len(descriptors), _BLOCK)
        ]
        word = np.concatenate([np.empty(0, np.int64), *blocks])
        order = np.argsort(word, kind="stable")
        order = order[word[order] >= 0]
        present, first = np.unique(word[order], return_index=True)
        for w, (start, stop) in zip(present, pairwise([*first, len(order)]), strict=True):
            thresholds[w] = np.median(signer.project(descriptors[order[start:stop]]), axis=0)
        return cls(signer.projection, thresholds.astype(np.float32), signer.codebook, fitted_on)

    @property
    def bits(self) -> int:
        """B, the length of a signature."""
        return len(self.projection)

    def project(self, descriptors: NDArray[Any]) -> NDArray[np.float64]:
        """P x of N descriptors; N×B."""
        return descriptors.astype(np.float64) @ self.projection.T.astype(np.float64)

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns its fingerprint. Raises RecipeError where that fails."""
        tensors = {"projection": self.projection, "thresholds": self.thresholds}
        return save_artefact(path, KIND, tensors, {"codebook": self.codebook, "fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path, codebook: Codebook) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged, or not of this codebook's words."""
        tensors, meta = load_artefact(path, KIND)
        try:
            signer = cls(tensors["projection"], tensors["thresholds"], str(meta["codebook"]), str(meta["fitted_on"]))
        except (KeyError, ValueError) as error:
            raise RecipeError(f"{path}: not a {KIND} artefact that this version can use: {error}") from error
        fits = len(signer.thresholds) == len(codebook) and signer.projection.shape[1] == codebook.dimension
        if signer.codebook != codebook.fingerprint or not fits:
            raise RecipeError(f"{path}: its medians are of another codebook's words; `resight fit` makes both together")
        return signer


@dataclass(frozen=True, eq=False)
class HammingFilter:
    """A code is the signature of one feature: k(x, y) = exp(−h²/σ²) for those that differ in h ≤ threshold bits.

    Beyond the threshold k = 0; m(x) = 1, so that ‖X‖ is that of the bag of words, as in the papers.
    sigma: σ in bits, 16 of 64 in Jégou, Douze & Schmid (CVPR 2009); 0 weighs all matches 1, as in 2008.
    idf: weigh words by their rarity in the collection.
    """

    signer: Signer
    threshold: int = 22
    sigma: float = 16.0
    idf: bool = True

    uniform = False

    @property
    def code_bytes(self) -> int:
        """B/8."""
        return self.signer.bits // 8

    def encode(self, descriptors: NDArray[np.float32], words: NDArray[np.int64]) -> Encoding:
        """The words of all features, ascending, and the signature of each at its word; a feature may have several."""
        row, column = np.nonzero(words >= 0)
        word = words[row, column]
        order = np.argsort(word, kind="stable")
        row, word = row[order], word[order]
        bits = self.signer.project(descriptors)[row] > self.signer.thresholds[word]
        return Encoding(word.astype(np.int32), np.packbits(bits, axis=1))

    def comparable(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        """The bits in lanes."""
        return lanes(codes)

    def compare(self, asked: NDArray[Any], stored: NDArray[Any]) -> NDArray[np.float64]:
        """The weight of each pair, by the bits in which it differs."""
        return self._weights[differing(asked, stored)]

    def mass(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """Ones."""
        return np.ones(len(codes))

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        h = np.arange(self.signer.bits + 1)
        near = np.exp(-((h / self.sigma) ** 2)) if self.sigma > 0 else np.ones(len(h))
        return np.where(h <= self.threshold, near, 0.0)
