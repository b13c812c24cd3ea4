"""Whether a query's verified matches are those that its filter ranks first (survey §7).

A picture altered to mislead a descriptor is ranked among strangers, and local features still know what it shows. So
matches that stand low in the first ranking are a sign of it; or of a hard view, of which verification makes up.
"""

import numpy as np
from numpy.typing import NDArray

PLACES = 5
"""Places of the first ranking in one of which a match is expected to stand."""


def first_place(accepted: NDArray[np.bool_]) -> int | None:
    """The rank, from 1, of the first match in the filter's ranking; None where there is no match in it.

    accepted: (N,), of the images in the order of that ranking.
    """
    return int(np.argmax(accepted)) + 1 if accepted.any() else None


def is_suspect(place: int | None) -> bool:
    """Whether there are matches, and none of them stands in one of the first ``PLACES``."""
    return place is not None and place > PLACES
