"""Pictures turned a little, for what learns not to mind it."""

import cv2
import numpy as np
from numpy.typing import NDArray


def turn(pixels: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """H×W×3 pixels turned anticlockwise about their centre, at their own size.

    What would be empty in the corners shows the reflection of the picture, so that no black wedge tells the angle.
    """
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, np.uint8)
