"""What a filter over visual words is: postings of an image, and how two images' postings compare (survey §4.2.2).

An inverted file keeps, for each word, the images that have it with a code of a few bytes. Every filter over it is
    S(X, Y) = Σ_w idf(w)² Σ_{x ∈ X_w} Σ_{y ∈ Y_w} k(x, y) / (‖X‖ ‖Y‖),   ‖X‖² = Σ_w (idf(w) Σ_{x ∈ X_w} m(x))²,
where X_w are image X's codes at word w, one or several. A filter says what the codes, k and m are.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resight.local.asmk import Encoding


class WordFilter(Protocol):
    """One filter: immutable, and the same for a collection's images and for queries."""

    @property
    def code_bytes(self) -> int:
        """Length of a code."""
        ...

    @property
    def idf(self) -> bool:
        """Whether a word that n of N images have counts log(N/n), and not 1."""
        ...

    @property
    def uniform(self) -> bool:
        """Whether ‖X‖² is the number of X's postings whatever they are, and so needs no reading of them."""
        ...

    def encode(self, descriptors: NDArray[np.float32], words: NDArray[np.int64]) -> Encoding:
        """An image's postings from N×D descriptors and the N×k words they are assigned to, −1 for none."""
        ...

    def comparable(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        """P×``code_bytes`` codes as ``compare`` and ``mass`` take them: a view, P×L or (P,)."""
        ...

    def compare(self, asked: NDArray[Any], stored: NDArray[Any]) -> NDArray[np.float64]:
        """k of P pairs of codes, which share their words; (P,)."""
        ...

    def mass(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """m of P codes; (P,)."""
        ...
