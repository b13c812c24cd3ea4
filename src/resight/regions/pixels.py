"""What every function of this room takes: an image as an array."""

import numpy as np
from numpy.typing import NDArray


def check_pixels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, contiguous as OpenCV wants it; ValueError unless it is H×W×3 uint8 with H, W ≥ 1."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"an image must be H×W×3 uint8 RGB, not {image.shape} {image.dtype}")
    return np.ascontiguousarray(image)
