"""A picture turned, shrunk, cut, partly covered or seen from the side, with the box that is asked about in it.

Each function is of (pixels H×W×3 uint8, strength, seed, box) and gives pixels and box. A strength of 0 changes nothing.
With one seed a stronger change goes the same way as a weaker one: the same side, axis or place.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.geometry.boxes import Box
from resight.geometry.homography import corners, project

Pixels = NDArray[np.uint8]
Seed = int | tuple[int, ...]
Changed = tuple[Pixels, Box | None]

_SUPERSAMPLED = 2  # what is foreshortened is drawn finer and averaged, so that it does not alias


def rotate(pixels: Pixels, degrees: float, seed: Seed, box: Box | None) -> Changed:
    """Turned about its centre, to one side or the other; a quarter turn is exact.

    The canvas grows to hold all of it; what is empty has the picture's mean colour.
    """
    if degrees == 0:
        return pixels, box
    side = 1 if np.random.default_rng(seed).random() < 0.5 else -1
    quarters, rest = divmod(degrees, 90)
    height, width = pixels.shape[:2]
    cosine, sine = math.cos(math.radians(side * degrees)), math.sin(math.radians(side * degrees))
    if rest == 0:
        cosine, sine = float(round(cosine)), float(round(sine))
    # Anticlockwise on the screen, whose y axis points down.
    turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]], float)
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    if rest == 0:
        turned = np.ascontiguousarray(np.rot90(pixels, side * int(quarters)))
        return turned, _carried(box, *_placed(turn @ to_centre, width, height))
    return _warped(pixels, turn @ to_centre, box, finer=1)


def tilt(pixels: Pixels, degrees: float, seed: Seed, box: Box | None) -> Changed:
    """As a pinhole camera sees the picture's plane once it is turned away about an axis through its centre.

    The camera's focal length, and its distance before the turn, are the picture's longer side. The axis lies in the
    plane and is drawn evenly from all directions. Canvas as of ``rotate``. degrees: below 90.
    """
    height, width = pixels.shape[:2]
    homography = tilt_homography(width, height, degrees, float(np.random.default_rng(seed).uniform(0, 2 * math.pi)))
    return (pixels, box) if degrees == 0 else _warped(pixels, homography, box, finer=_SUPERSAMPLED)


def tilt_homography(width: int, height: int, degrees: float, axis: float) -> NDArray[np.float64]:
    """3×3, from points (x, y) of a picture, (0, 0) its corner, to the camera's, (0, 0) its centre; axis in radians."""
    focal = float(max(width, height))
    along = np.array([math.cos(axis), math.sin(axis), 0])
    rotation, _ = cv2.Rodrigues(along * math.radians(degrees))
    to_plane = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 0], [0, 0, 1]])  # z = 0, homogeneous
    seen = np.column_stack([rotation, [0, 0, focal]]) @ to_plane
    return np.asarray(np.diag([focal, focal, 1]) @ seen, np.float64)


def shrink(pixels: Pixels, octaves: float, seed: Seed, box: Box | None) -> Changed:
    """Both sides divided by 2^octaves, by the mean of the area that each pixel covers."""
    height, width = pixels.shape[:2]
    size = max(1, round(width / 2**octaves)), max(1, round(height / 2**octaves))
    if size == (width, height):
        return pixels, box
    small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, _carried(box, np.diag([size[0] / width, size[1] / height, 1.0]), size)


def cut(pixels: Pixels, share: float, seed: Seed, box: Box | None) -> Changed:
    """A rectangle of 1 − share of both sides, of the box where there is one, at a place drawn evenly; whole pixels."""
    if share == 0:
        return pixels, box
    x, y, w, h = _window(pixels, box, 1 - share, seed)
    part = np.ascontiguousarray(pixels[y : y + h, x : x + w])
    return part, None if box is None else (0.0, 0.0, float(w), float(h))


def cover(pixels: Pixels, share: float, seed: Seed, box: Box | None) -> Changed:
    """A grey rectangle in front of a share of the area, of the box's where there is one, in its shape, anywhere."""
    if share == 0:
        return pixels, box
    x, y, w, h = _window(pixels, box, math.sqrt(share), seed)
    covered = pixels.copy()
    covered[y : y + h, x : x + w] = 128
    return covered, box


def _window(pixels: Pixels, box: Box | None, share: float, seed: Seed) -> tuple[int, int, int, int]:
    """Left, top, width and height of a share of both sides of a picture, or of the box in it; a pixel at least."""
    x1, y1, x2, y2 = (0.0, 0.0, pixels.shape[1], pixels.shape[0]) if box is None else box
    left, top = math.floor(x1), math.floor(y1)
    width, height = math.ceil(x2) - left, math.ceil(y2) - top
    w, h = max(1, round(width * share)), max(1, round(height * share))
    u, v = np.random.default_rng(seed).random(2)
    return left + int(u * (width - w + 1)), top + int(v * (height - h + 1)), w, h


def _placed(homography: NDArray[np.float64], width: int, height: int) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """The map moved so that the picture's image begins at (0, 0), and the (width, height) that holds it."""
    image = project(homography, corners((0, 0, width, height)))
    low, high = image.min(axis=0), image.max(axis=0)
    size = np.maximum(1, np.ceil(np.round(high - low, 6))).astype(int)
    move = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]])
    return move @ homography, (int(size[0]), int(size[1]))


def _warped(pixels: Pixels, homography: NDArray[np.float64], box: Box | None, *, finer: int) -> Changed:
    height, width = pixels.shape[:2]
    placed, size = _placed(homography, width, height)
    # OpenCV puts (0, 0) at the centre of the first pixel, boxes put it at the corner.
    centres = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    drawn = np.linalg.inv(centres) @ np.diag([finer, finer, 1.0]) @ placed @ centres
    mean = tuple(float(value) for value in pixels.reshape(-1, 3).mean(axis=0))
    canvas = (size[0] * finer, size[1] * finer)
    warped = cv2.warpPerspective(pixels, drawn, canvas, flags=cv2.INTER_LINEAR, borderValue=mean)
    if finer > 1:
        warped = cv2.resize(warped, size, interpolation=cv2.INTER_AREA)
    return np.asarray(warped, np.uint8), _carried(box, placed, size)


def _carried(box: Box | None, homography: NDArray[np.float64], size: tuple[int, int]) -> Box | None:
    """The bounds of the box's image within a picture of (width, height), a pixel at least."""
    if box is None:
        return None
    image = project(homography, corners(box))
    x1, y1 = (float(v) for v in np.clip(image.min(axis=0), 0, np.array(size) - 1))
    x2, y2 = (float(v) for v in np.clip(image.max(axis=0), 0, size))
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)
