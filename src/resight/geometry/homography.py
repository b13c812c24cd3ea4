"""Plane projective maps: points, corners, and what the map does locally to scale and direction; outlines."""

import cv2
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


def inside(outline: NDArray[np.floating], xy: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of N×2 points lie within a polygon of K×2 corners, by the even–odd rule; (N,)."""
    start, end = np.asarray(outline, float), np.roll(outline, -1, axis=0).astype(float)
    x, y = np.asarray(xy, float).T[:, :, None]
    spans = (start[:, 1] > y) != (end[:, 1] > y)
    rise = np.where(start[:, 1] == end[:, 1], 1, end[:, 1] - start[:, 1])
    crossing = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    return np.asarray((spans & (x < crossing)).sum(axis=1) % 2 == 1, np.bool_)


def overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The area that the convex hulls of two outlines share, as a fraction of the smaller; 0 where one has no area."""
    hulls = cv2.convexHull(one.astype(np.float32)), cv2.convexHull(other.astype(np.float32))
    smaller = min(cv2.contourArea(hull) for hull in hulls)
    return float(cv2.intersectConvexConvex(*hulls)[0] / smaller) if smaller > 0 else 0.0
