"""Plane projective maps: points, corners, and what the map does locally to scale and direction."""

import numpy as np
from numpy.typing import NDArray


def project(homography: NDArray[np.float64], xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """N×2 points mapped by a 3×3 homography; points on its horizon come out as inf or nan."""
    homogeneous = np.column_stack([xy, np.ones(len(xy))]) @ homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        mapped: NDArray[np.float64] = homogeneous[:, :2] / homogeneous[:, 2:]
    return mapped


def corners(box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """4×2 corners of a box, clockwise from the top left."""
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], float)


def jacobians(homography: NDArray[np.float64], xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """N×2×2 derivatives of the map at N points: how it stretches and turns a small patch there."""
    h = homography
    w = xy @ h[2, :2] + h[2, 2]
    uv = project(h, xy)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([(h[i, :2] - uv[:, i, None] * h[2, :2]) / w[:, None] for i in (0, 1)], axis=1)
