"""Small drawn things: badges, emblems, bar codes, scribbles."""

import cv2
import numpy as np

from resight.learning.procedural.colours import Pixels, rgb
from resight.learning.procedural.lettering import Box, fitted, word


def emblem(picture: Pixels, box: Box, rng: np.random.Generator, colours: Pixels) -> None:
    """A mark of a few shapes about a middle, as logos and crests are; upon ``picture``."""
    x1, y1, x2, y2 = box
    middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    size = min(x2 - x1, y2 - y1) / 2
    for radius in sorted(rng.uniform(0.25, 1.0, int(rng.integers(2, 5))), reverse=True):
        colour = rgb(colours[int(rng.integers(len(colours)))])
        kind, count, turn = int(rng.integers(5)), int(rng.integers(3, 9)), rng.uniform(0, 2 * np.pi)
        inner = radius * size
        if kind == 0:
            cv2.circle(picture, _point(middle), round(inner), colour, -1 if rng.random() < 0.6 else 2, cv2.LINE_AA)
            continue
        # Polygons, stars and flowers: a radius that varies with the angle.
        angles = np.linspace(0, 2 * np.pi, 2 * count if kind < 3 else 48, endpoint=False)
        if kind == 1:
            radii = np.full(len(angles), inner)
        elif kind == 2:
            radii = np.where(np.arange(len(angles)) % 2, inner, inner * rng.uniform(0.3, 0.7))
        elif kind == 3:
            radii = inner * (1 - rng.uniform(0.2, 0.5) * (0.5 + 0.5 * np.cos(count * angles)))
        else:  # alike on both sides
            waves = rng.normal(0, 0.25, 4)
            radii = inner * (0.75 + sum(w * np.cos((k + 1) * angles) for k, w in enumerate(waves))).clip(0.1, 1.1)
            turn = np.pi / 2
        corners = middle + radii[:, None] * np.stack([np.cos(angles + turn), np.sin(angles + turn)], axis=1)
        cv2.fillPoly(picture, [corners.round().astype(np.int32)], colour, cv2.LINE_AA)
    if rng.random() < 0.4:
        text, half = word(rng), round(0.6 * size)
        x, y = _point(middle)
        fitted(picture, (x - half, y - half // 2, x + half, y + half // 2), text, rng, rgb(colours[0]))


def bars(picture: Pixels, box: Box, rng: np.random.Generator) -> None:
    """A bar code; upon ``picture``."""
    x1, y1, x2, y2 = box
    picture[y1:y2, x1:x2] = 250
    inside = picture[y1 + 2 : y2 - 2, x1 + 3 : x2 - 3]
    inside[:, np.repeat(rng.random(inside.shape[1]) < 0.5, rng.integers(1, 3))[: inside.shape[1]]] = 15


def scribble(picture: Pixels, box: Box, rng: np.random.Generator, colours: Pixels) -> None:
    """Smooth curves through a box; upon ``picture``."""
    x1, y1, x2, y2 = box
    t = np.linspace(0, 1, 24)[:, None]
    for _ in range(int(rng.integers(1, 5))):
        a, b, c, d = rng.uniform((x1, y1), (x2, y2), (4, 2))
        curve = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
        colour, thickness = rgb(colours[int(rng.integers(len(colours)))]), int(rng.integers(1, 9))
        cv2.polylines(picture, [curve.round().astype(np.int32)], False, colour, thickness, cv2.LINE_AA)


def _point(xy: np.ndarray) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))
