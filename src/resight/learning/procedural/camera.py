"""Perspective cameras: where a pixel looks, and where a point of one picture lies in another."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole without distortion.

    position: (3,) in the world. axes: 3×3, rows are the camera's right, down and forward in the world, unit length.
    focal: in pixels. centre: the principal point (x, y) in pixels, the centre of pixel (0, 0) being (0, 0).
    """

    position: Vector
    axes: Vector
    focal: float
    centre: tuple[float, float]

    @property
    def matrix(self) -> Vector:
        """3×3: from a point in the camera's frame to (x z, y z, z), x and y in pixels, z the depth."""
        return np.array([[self.focal, 0, self.centre[0]], [0, self.focal, self.centre[1]], [0, 0, 1]])

    @property
    def rays(self) -> Vector:
        """3×3: its product with (x, y, 1) is the direction, in the world, of depth 1 that pixel (x, y) looks in."""
        return self.axes.T @ np.linalg.inv(self.matrix)

    def project(self, points: Vector) -> tuple[Vector, Vector]:
        """Positions N×2 in pixels and depths (N,) of points N×3 of the world; the former say nothing at 0 or less."""
        seen = (points - self.position) @ self.axes.T @ self.matrix.T
        depth = seen[:, 2]
        return seen[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)[:, None], depth


def look(position: Vector, target: Vector, focal: float, centre: tuple[float, float], roll: float = 0.0) -> Camera:
    """A camera at a position with its principal ray through a target. roll: radians, clockwise, of the camera.

    The world's z points up; a camera that looks straight up or down has no upright, and the world's y stands in.
    """
    forward = target - position
    forward = forward / np.linalg.norm(forward)
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.999 else np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = math.cos(roll), math.sin(roll)
    return Camera(position, np.stack([c * right + s * down, c * down - s * right, forward]), focal, centre)


def transfer(one: Camera, other: Camera) -> tuple[Vector, Vector]:
    """A 3×3 matrix and a vector (3,): depth · (matrix (x, y, 1)) + vector is (x' z', y' z', z') in the other picture.

    (Hartley and Zisserman, Multiple View Geometry, 2nd edition, eq. 9.6.)
    """
    turned = other.matrix @ other.axes
    return turned @ one.rays, turned @ (one.position - other.position)
