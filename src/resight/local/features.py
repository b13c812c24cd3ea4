"""The one value for local features, whatever detected and described them (survey §4.2.2)."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_UNITS = {np.dtype(np.uint8): 512.0, np.dtype(np.int8): 256.0, np.dtype(np.float32): 1.0}


@dataclass(frozen=True, eq=False)
class Colours:
    """A small picture of an image or a part of it, as ``colours.small_picture`` makes it.

    pixels: S×S×3 uint8 RGB, whatever the aspect. frame: (x1, y1, x2, y2) of what it shows, in pixels of the upright
    original.
    """

    pixels: NDArray[np.uint8]
    frame: tuple[float, float, float, float]

    def moved(self, x: float, y: float) -> "Colours":
        """The same with the frame moved by (x, y)."""
        x1, y1, x2, y2 = self.frame
        return replace(self, frame=(x1 + x, y1 + y, x2 + x, y2 + y))

    @property
    def scale(self) -> NDArray[np.float64]:
        """(x, y) pixels here for each of the original's."""
        x1, y1, x2, y2 = self.frame
        return len(self.pixels) / np.array([x2 - x1, y2 - y1])


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """N keypoints with descriptors, strongest first.

    xy: N×2 float32, pixels of the upright original (centre of the top-left pixel is (0, 0)).
    size: N float32, diameter of the described region in the same pixels.
    angle: N float32, radians in [0, 2π), clockwise from the x axis as in image coordinates.
    score: N float32, the detector's response.
    descriptors: N×D, of length ``unit``: uint8 (RootSIFT), int8 as ``quantised`` makes it, or float32.
    colours: a small picture of what they were found in, where verification is to compare colours.
    """

    xy: NDArray[np.float32]
    size: NDArray[np.float32]
    angle: NDArray[np.float32]
    score: NDArray[np.float32]
    descriptors: NDArray[np.uint8 | np.int8 | np.float32]
    colours: Colours | None = None

    def __post_init__(self) -> None:
        n = len(self.xy)
        if self.xy.shape != (n, 2) or self.descriptors.ndim != 2:
            raise ValueError(f"xy must be N×2 and descriptors N×D, not {self.xy.shape}, {self.descriptors.shape}")
        for name in ("size", "angle", "score"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name} must have {n} entries, not shape {getattr(self, name).shape}")
        if len(self.descriptors) != n:
            raise ValueError(f"{len(self.descriptors)} descriptors for {n} keypoints")

    def __len__(self) -> int:
        return len(self.xy)

    def part(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> "LocalFeatures":
        """Some of the features, of the same picture."""
        xy, size, angle, score = (column[rows] for column in (self.xy, self.size, self.angle, self.score))
        return LocalFeatures(xy, size, angle, score, self.descriptors[rows], self.colours)

    @property
    def unit(self) -> float:
        """What entries of a descriptor of length one were multiplied by to fill their type."""
        return _UNITS[self.descriptors.dtype]


def quantised(features: LocalFeatures) -> LocalFeatures:
    """float32 descriptors of length one as int8: rounded, and clipped beyond 127/256, which few entries are."""
    if features.descriptors.dtype != np.float32:
        return features
    scaled = np.rint(features.descriptors * _UNITS[np.dtype(np.int8)])
    return replace(features, descriptors=np.clip(scaled, -127, 127).astype(np.int8))
