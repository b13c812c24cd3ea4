"""Bag of visual words as a filter: the cosine of tf·idf vectors through an inverted file (survey §4.2.1, Eq. 1–3).

Sivic & Zisserman, "Video Google", ICCV 2003, §4. ``resight.embedding.bow`` makes such vectors of any set of features.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.local.asmk import Encoding

_MOST = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class BowFilter:
    """A code is tf, how many of the image's features fall on the word: k(x, y) = tf(x) tf(y), and m(x) = tf(x).

    idf: weigh words by their rarity in the collection.
    root: take √tf for tf, against bursts of one word (Jégou, Douze & Schmid, "On the burstiness of visual elements",
        CVPR 2009).
    """

    idf: bool = True
    root: bool = False

    code_bytes = 2
    uniform = False

    def encode(self, descriptors: NDArray[np.float32], words: NDArray[np.int64]) -> Encoding:
        """The image's words and tf, little-endian uint16; more than 65,535 features on a word count as so many."""
        present, counts = np.unique(words[words >= 0], return_counts=True)
        codes = np.minimum(counts, _MOST).astype("<u2").view(np.uint8).reshape(-1, self.code_bytes)
        return Encoding(present.astype(np.int32), codes)

    def comparable(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        """tf; (P,) uint16."""
        tf: NDArray[np.uint16] = codes.view("<u2")[:, 0]
        return tf

    def compare(self, asked: NDArray[Any], stored: NDArray[Any]) -> NDArray[np.float64]:
        """The products of tf, or of its roots."""
        product: NDArray[np.float64] = asked.astype(np.float64) * stored
        return np.sqrt(product) if self.root else product

    def mass(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """tf, or its root."""
        tf = codes.astype(np.float64)
        return np.sqrt(tf) if self.root else tf
