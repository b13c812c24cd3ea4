"""The one image value: upright sRGB pixels, and the size and origin of what they were read from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Image:
    """An upright RGB image, possibly decoded at a reduced size.

    pixels: H×W×3 uint8, sRGB, EXIF orientation applied, alpha flattened on white.
    size: (width, height) of the upright original in pixels. Boxes and keypoints everywhere are in this frame,
        also when ``pixels`` is smaller.
    origin: where it came from: a path, ``archive.zip!/member``, or ``<array>``.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    origin: str

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(
                f"pixels must be H×W×3 uint8 RGB, not {self.pixels.shape} {self.pixels.dtype} ({self.origin})"
            )
        if self.pixels.size == 0 or min(self.size) < 1:
            raise ValueError(f"the image has no pixels ({self.origin})")

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) factors from the original's pixel coordinates to those of ``pixels``."""
        return self.pixels.shape[1] / self.size[0], self.pixels.shape[0] / self.size[1]

    def original_xy(self, xy: NDArray[np.floating]) -> NDArray[np.float64]:
        """N×2 positions (x, y) in ``pixels`` as positions in the original.

        The centre of pixel (0, 0) is at (0, 0) in both and at half a pixel from the corner, so scaling moves it.
        """
        return np.asarray((xy + 0.5) / self.scale - 0.5, np.float64)
