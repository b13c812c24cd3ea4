"""Hamming embedding: features as a visual word and a binary signature (survey §4.2.1; Jégou, Douze & Schmid, ECCV 2008,
"Hamming embedding and weak geometric consistency", §3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.embedding.codebook import Codebook, codebook_of, codebook_tensors
from resight.embedding.embedding import Features, batches, join
from resight.errors import RecipeError

KIND = "hamming-embedding"
_BATCH = 65_536  # features assigned at a time: a large codebook is quicker with many


@dataclass(frozen=True, eq=False)
class Signatures:
    """n features by ascending word. words: (n,) int64. codes: n×B/8 uint8, packed bits. rows: (n,) int64, which of
    the image's features each was.
    """

    words: NDArray[np.int64]
    codes: NDArray[np.uint8]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, eq=False)
class HammingEmbedding:
    """Bit i of a feature x at word w: whether (P x)_i is above the median τ_wi of w's training features.

    Two features match that share their word and whose signatures differ in h ≤ threshold bits.
    projection: P, B×D float32, orthonormal rows drawn at random; B is a multiple of 8.
    thresholds: τ, W×B float32.
    threshold: the paper's h_t, 24 of 64 bits. sigma: a match weighs exp(−h²/σ²) (Jégou et al., "On the burstiness of
        visual elements", CVPR 2009, with σ = 16 of 64 bits); None weighs all matches 1, as in 2008.
    """

    codebook: Codebook
    projection: Features
    thresholds: Features
    threshold: int = 24
    sigma: float | None = 16.0

    def __post_init__(self) -> None:
        bits = len(self.projection)
        if bits == 0 or bits % 8 or self.projection.shape != (bits, self.codebook.dimension):
            raise ValueError(
                f"projection must be B×{self.codebook.dimension}, B a multiple of 8, not {self.projection.shape}"
            )
        if self.thresholds.shape != (len(self.codebook), bits):
            raise ValueError(f"thresholds must be {len(self.codebook)}×{bits}, not {self.thresholds.shape}")
        if not 0 <= self.threshold <= bits or (self.sigma is not None and self.sigma <= 0):
            raise ValueError(
                f"threshold must be 0 to {bits} bits, and sigma above 0, not {self.threshold}, {self.sigma}"
            )

    @classmethod
    def fit(
        cls,
        features: Features,
        words: int,
        *,
        seed: int,
        fitted_on: str,
        bits: int = 64,
        threshold: int = 24,
        sigma: float | None = 16.0,
    ) -> Self:
        """Learn the words of N×D features, and the medians at each.

        A word that no feature is nearest to has its own projection as medians. Raises RecipeError for fewer dimensions
        than bits, ValueError for fewer features than words.
        """
        if not 0 < bits <= features.shape[1]:
            raise RecipeError(f"features of {features.shape[1]} dimensions have no {bits} orthogonal projections")
        codebook = Codebook.fit(features, words, seed=seed, fitted_on=fitted_on)
        projection = orthogonal(features.shape[1], seed)[:bits]
        thresholds = codebook.words @ projection.T
        word = codebook.assign(np.asarray(features, np.float32))[:, 0]
        order = np.argsort(word, kind="stable")
        order = order[word[order] >= 0]
        present, start = np.unique(word[order], return_index=True)
        for w, own in zip(present, np.split(order, start[1:]), strict=True):
            thresholds[w] = np.median(features[own] @ projection.T, axis=0)
        return cls(codebook, projection, thresholds, threshold, sigma)

    @property
    def bits(self) -> int:
        """B, the length of a signature."""
        return len(self.projection)

    @property
    def input_dimension(self) -> int:
        """D, the length of a feature."""
        return self.codebook.dimension

    @property
    def fitted_on(self) -> str:
        """What the words and medians were learned from."""
        return self.codebook.fitted_on

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind, the learned values and the options, in hex; ``fitted_on`` does not enter."""
        return artefact_fingerprint(KIND, self._tensors())

    def encode(self, features: Features) -> Signatures:
        """The words and signatures of n×D features. Raises ValueError for another D."""
        return self.encode_sets([features])[0]

    def encode_sets(self, sets: Sequence[Features]) -> list[Signatures]:
        """``encode`` of each set, quicker for many small ones."""
        encoded: list[Signatures] = []
        for batch in batches(sets, _BATCH):
            features, bounds = join(batch, self.input_dimension)
            words = self.codebook.assign(features)[:, 0]
            codes = np.packbits(features @ self.projection.T > self.thresholds[words], axis=1)
            for start, stop in pairwise(bounds):
                rows = np.argsort(words[start:stop], kind="stable")
                rows = rows[words[start + rows] >= 0]
                encoded.append(Signatures(words[start + rows], codes[start + rows], rows))
        return encoded

    def match(self, a: Signatures, b: Signatures) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """M×2 int64 matching features of a and b, by their rows, and the (M,) bits in which their signatures differ."""
        left, right, differing = self._matches(a, b)
        return np.column_stack([a.rows[left], b.rows[right]]), differing

    def similarity(self, a: Signatures, b: Signatures, idf: Features | None = None) -> float:
        """Σ over matches of their weight times idf(w)², divided by the norms √(Σ_w n_w² idf(w)²) of a's and b's tf·idf.

        0 where one has no features. idf: (W,), such as a ``Bow``'s; ValueError for another shape.
        """
        if idf is not None and idf.shape != (len(self.codebook),):
            raise ValueError(f"idf must be ({len(self.codebook)},), not {idf.shape}")
        left, _, differing = self._matches(a, b)
        weights = (
            np.ones(self.bits + 1) if self.sigma is None else np.exp(-((np.arange(self.bits + 1) / self.sigma) ** 2))
        )
        squared = np.ones(len(self.codebook)) if idf is None else np.square(idf, dtype=np.float64)
        norm = _norm(a.words, squared) * _norm(b.words, squared)
        return float(weights[differing] @ squared[a.words[left]] / norm) if norm > 0 else 0.0

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
                tensors["projection"],
                tensors["thresholds"],
                int(tensors["threshold"]),
                float(tensors["sigma"]) if "sigma" in tensors else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a Hamming embedding that this version can use: {error}") from error

    def _matches(self, a: Signatures, b: Signatures) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Places in a and in b of all matches, and the bits in which they differ."""
        start = np.searchsorted(b.words, a.words)
        counts = np.searchsorted(b.words, a.words, side="right") - start
        left = np.repeat(np.arange(len(a)), counts)
        right = np.arange(len(left)) + np.repeat(start - np.cumsum(counts) + counts, counts)
        differing = np.bitwise_count(a.codes[left] ^ b.codes[right]).sum(axis=1, dtype=np.int64)
        near = differing <= self.threshold
        return left[near], right[near], differing[near]

    def _tensors(self) -> dict[str, NDArray[np.generic]]:
        tensors = codebook_tensors(self.codebook)
        tensors |= {"projection": self.projection, "thresholds": self.thresholds, "threshold": np.array(self.threshold)}
        return tensors | ({} if self.sigma is None else {"sigma": np.array(self.sigma)})


def orthogonal(dimension: int, seed: int) -> Features:
    """A random D×D orthogonal matrix, uniform over rotations and reflections (Mezzadri 2007); float32."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))
    return np.asarray(q * np.sign(np.diagonal(r)), np.float32)


def _norm(words: NDArray[np.int64], squared_idf: NDArray[np.float64]) -> float:
    counts = np.bincount(words, minlength=len(squared_idf))
    return float(np.sqrt(np.square(counts, dtype=np.float64) @ squared_idf))
