"""Patches of one point in several views: a photo and warped copies of it, in which each point's place is known.

He, Lu & Sclaroff (DOAP, CVPR 2018) learn from patches of UBC PhotoTour and HPatches, of which points were found by
multi-view stereo; a known warp stands in for those, so that any photos do. Ranges of the warps are ours.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.local.patch_network import octaves_of, patches

Pixels = NDArray[np.uint8]
Frames = tuple[NDArray[np.float64], NDArray[np.float64]]
"""xy N×2 and frames N×2×2, as ``patches`` takes them."""

_TURN, _SHRINK, _STRETCH, _PERSPECTIVE = np.pi / 5, 0.7, 1.25, 0.15
_SLIP, _TWIST, _GROW = 0.06, np.pi / 18, 0.12  # by which a detector errs: of the radius, radians, of a doubling


def warped_patches(
    grey: Pixels, frames: Frames, points: int, views: int, side: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """P×V×side×side of at most ``points`` points, drawn, each in V views, the first of the photo as it is.

    grey: H×W. Each further view is the photo under a map of its own, in other light, blurred and noisy; the frame of a
    point follows the map and errs a little, as a detector would. Points that leave the photo in some view are left out.
    """
    height, width = grey.shape
    maps = [_map(width, height, rng) for _ in range(views - 1)]
    xy, shapes = frames
    seen = np.ones(len(xy), bool)
    for h in maps:
        moved, _ = follow(h, xy)
        seen &= ((moved >= 0) & (moved <= (width - 1, height - 1))).all(axis=1)
    chosen = rng.permutation(np.flatnonzero(seen))[:points]
    out = np.empty((len(chosen), views, side, side), np.float32)
    out[:, 0] = patches(octaves_of(grey), xy[chosen], shapes[chosen], side)
    for view, h in enumerate(maps, 1):
        drawn = cv2.warpPerspective(grey, h, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        moved, jacobians = follow(h, xy[chosen])
        turned = jacobians @ shapes[chosen]
        moved = moved + np.einsum("nij,nj->ni", turned, rng.normal(scale=_SLIP, size=moved.shape))
        twisted = turned @ _errors(len(chosen), rng)
        out[:, view] = patches(octaves_of(_in_other_light(drawn, rng)), moved, twisted, side)
    return out


def follow(h: NDArray[np.float64], xy: NDArray[np.float64]) -> Frames:
    """Where a homography takes points N×2, and its Jacobian there, N×2×2."""
    to = np.column_stack([xy, np.ones(len(xy))]) @ h.T
    moved = to[:, :2] / to[:, 2:]
    return moved, (h[:2, :2] - moved[:, :, None] * h[2, :2]) / to[:, 2, None, None]


def _map(width: int, height: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A turn, a scale, a stretch in some direction and some perspective, about the middle."""
    turn, along = rng.uniform(-_TURN, _TURN), rng.uniform(0, np.pi)
    stretch = _STRETCH ** rng.uniform(-1, 1)
    linear = _rotation(turn) @ _rotation(along) @ np.diag([stretch, 1 / stretch]) @ _rotation(-along)
    h = np.eye(3)
    h[:2, :2] = linear * rng.uniform(_SHRINK, 1.0)
    h[2, :2] = rng.uniform(-_PERSPECTIVE, _PERSPECTIVE, 2) / (width / 2, height / 2)
    to, back = np.eye(3), np.eye(3)
    to[:2, 2], back[:2, 2] = (-(width - 1) / 2, -(height - 1) / 2), ((width - 1) / 2, (height - 1) / 2)
    found: NDArray[np.float64] = back @ h @ to
    return found


def _errors(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    turns = (
        np.stack([_rotation(angle) for angle in rng.normal(scale=_TWIST, size=count)]) if count else np.empty((0, 2, 2))
    )
    found: NDArray[np.float64] = turns * 2 ** rng.normal(scale=_GROW, size=(count, 1, 1))
    return found


def _in_other_light(grey: Pixels, rng: np.random.Generator) -> Pixels:
    value = (grey / 255.0) ** (1.6 ** rng.uniform(-1, 1)) * rng.uniform(0.6, 1.1) + rng.uniform(-0.1, 0.1)
    blurred = cv2.GaussianBlur(value, (0, 0), rng.uniform(0.3, 1.2))
    noisy = blurred + rng.normal(scale=rng.uniform(0, 0.02), size=blurred.shape)
    return np.asarray(np.clip(np.rint(255 * noisy), 0, 255), np.uint8)


def _rotation(angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])
