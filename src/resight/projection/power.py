"""Power-law normalisation of a descriptor (Perronnin, Sánchez & Mensink, ECCV 2010; Jégou & Chum, ECCV 2012)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.features.multiscale import l2_normalise


def power(x: ArrayLike, alpha: float = 0.5) -> NDArray[np.float64]:
    """sign(x)·|x|^α of each entry, then ℓ2: evens out entries that dominate because they are frequent.

    x: …×D. alpha: 1 leaves directions as they are, 0.5 is square-rooting. Zero vectors stay zero.
    Raises ValueError unless 0 < alpha ≤ 1.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1, not {alpha}")
    vectors = np.asarray(x, dtype=np.float64)
    return l2_normalise(np.sign(vectors) * np.abs(vectors) ** alpha)
