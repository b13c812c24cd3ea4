"""Shapes drawn as masks."""

import numpy as np
from numpy.typing import NDArray


def disc(
    shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> NDArray[np.bool_]:
    """h×w bool: an ellipse about (x, y) with semi-axes along and across a direction in radians."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    dx, dy = x - centre[0], y - centre[1]
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
