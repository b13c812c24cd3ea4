"""What a scene is made of: boxes, upright cylinders and ellipsoids, turned and stretched, with a texture a face."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from resight.learning.procedural.camera import Vector

Kind = Literal["box", "cylinder", "ellipsoid"]
KINDS: tuple[Kind, ...] = ("box", "cylinder", "ellipsoid")

FACES = ("right", "left", "back", "front", "top", "bottom")
"""Of a box, towards +x, -x, +y, -y, +z, -z of its frame. A cylinder's side and an ellipsoid are "front" all round."""

_THIN = 1e-4

# The unit frame's position → (u, v), v downwards, so that a print on a face is read from outside it.
_ACROSS = np.array([[0, 1, 0], [0, -1, 0], [-1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]], np.float64) / 2
_DOWN = np.array([[0, 0, -1], [0, 0, -1], [0, 0, -1], [0, 0, -1], [0, -1, 0], [0, 1, 0]], np.float64) / 2


@dataclass(frozen=True)
class Face:
    """texture: a number of the scene's. repeat: how often across and down. offset: of the first, in repeats.

    gloss: strength of the highlights, 0 for none.
    """

    texture: int
    repeat: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    gloss: float = 0.0


@dataclass(frozen=True, eq=False)
class Solid:
    """A convex solid: |x|, |y|, |z| ≤ 1, or x² + y² ≤ 1 and |z| ≤ 1, or x² + y² + z² ≤ 1, stretched, turned, moved.

    half: (3,) half of the extents. axes: 3×3, rows are the solid's x, y, z in the world. faces: 6, by ``FACES``.
    """

    kind: Kind
    centre: Vector
    half: Vector
    axes: Vector
    faces: tuple[Face, ...]

    def corners(self) -> Vector:
        """8×3: of the box around it, in the world."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
        return self.centre + signs * self.half @ self.axes


def mapping(solids: Sequence[Solid]) -> tuple[Vector, Vector, Vector]:
    """How textures lie on P solids' faces.

    P×6×4 for u and P×6×4 for v: coefficients of the unit frame's (x, y, z, 1), where on curved faces x goes round and z
    up evenly from -1 to 1. P×6: repeats of the texture to a unit of length, the geometric mean of both directions.
    """
    repeat = np.array([[f.repeat for f in s.faces] for s in solids])
    shift = np.array([[f.offset for f in s.faces] for s in solids]) + repeat / 2
    across = np.concatenate([_ACROSS * repeat[..., :1], shift[..., :1]], axis=2)
    down = np.concatenate([_DOWN * repeat[..., 1:], shift[..., 1:]], axis=2)
    halves = np.stack([s.half for s in solids])
    extent = 4 * np.stack([halves @ np.abs(_ACROSS).T, halves @ np.abs(_DOWN).T], axis=2)
    # Round a solid it is π times as far as across; an ellipsoid's lines of latitude are shorter off its middle.
    extent[:, 3, 0] *= [{"box": 1.0, "cylinder": math.pi, "ellipsoid": math.pi / 1.3}[s.kind] for s in solids]
    return across, down, np.sqrt((repeat / extent).prod(axis=2))


def solid(
    kind: Kind,
    centre: tuple[float, float, float] | Vector,
    half: tuple[float, float, float] | Vector,
    face: Face,
    faces: Mapping[str, Face] | None = None,
    *,
    turn: float = 0.0,
    axes: Vector | None = None,
) -> Solid:
    """A solid of one face, but for those that are named. turn: radians about z, to the left from above; or axes."""
    c, s = math.cos(turn), math.sin(turn)
    frame = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]]) if axes is None else axes
    named = faces or {}
    all_faces = tuple(named.get(name, face) for name in FACES)
    return Solid(kind, np.array(centre, float), np.maximum(np.array(half, float), _THIN), frame, all_faces)
