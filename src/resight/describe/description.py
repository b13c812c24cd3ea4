"""What a recipe says of one image: the value that is stored and searched (survey Fig. 2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resight.local.features import LocalFeatures


@dataclass(frozen=True, eq=False)
class Description:
    """A global descriptor, local features, or both.

    size: (width, height) of the upright original in pixels, the frame of the local features.
    global_descriptor: (D,) float32, ℓ2-normalised, or None where the recipe has no global stage.
    local: local features, or None where the recipe has no local stage.
    """

    size: tuple[int, int]
    global_descriptor: NDArray[np.float32] | None
    local: LocalFeatures | None
