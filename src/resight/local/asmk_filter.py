"""ASMK* as a filter over visual words: one code of residual signs for a word of an image (``resight.local.asmk``)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.embedding.codebook import Codebook
from resight.hashing.codes import differing, lanes
from resight.local.asmk import Encoding, encode_assigned, selectivity


@dataclass(frozen=True, eq=False)
class AsmkFilter:
    """k(x, y) = σ(1 − 2h/B) for codes that differ in h of B bits, m(x) = 1, and no idf.

    alpha, threshold: of the selectivity σ.
    """

    codebook: Codebook
    alpha: float = 3.0
    threshold: float = 0.0

    idf = False
    uniform = True

    @property
    def code_bytes(self) -> int:
        """A bit a dimension."""
        return self.codebook.dimension // 8

    def encode(self, descriptors: NDArray[np.float32], words: NDArray[np.int64]) -> Encoding:
        """The packed signs of the summed residuals at each word."""
        return encode_assigned(descriptors, words, self.codebook)

    def comparable(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        """The bits in lanes."""
        return lanes(codes)

    def compare(self, asked: NDArray[Any], stored: NDArray[Any]) -> NDArray[np.float64]:
        """The selectivity of each pair."""
        return self._selectivity[differing(asked, stored)]

    def mass(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """Ones."""
        return np.ones(len(codes))

    @cached_property
    def _selectivity(self) -> NDArray[np.float64]:
        return selectivity(8 * self.code_bytes, self.alpha, self.threshold).astype(np.float64)
