"""Surfaces drawn by code: materials, foliage, pages, shelves, fronts of houses … all SIDE×SIDE×3."""

from collections.abc import Callable

import cv2
import numpy as np

from resight.learning.procedural.colours import Pixels, coloured, palette, plain, ramp, rgb
from resight.learning.procedural.lettering import lines
from resight.learning.procedural.materials import (
    SIDE,
    bricks,
    cloth,
    fractal,
    marble,
    noise,
    plaster,
    stone,
    wood,
)


def pattern(rng: np.random.Generator) -> Pixels:
    """A surface SIDE×SIDE×3, of any sort."""
    kind = _KINDS[rng.integers(len(_KINDS))]
    return np.ascontiguousarray(kind(rng))


def _dots(rng: np.random.Generator) -> Pixels:
    colours = palette(rng, 6)
    picture = plain(SIDE, SIDE, colours[0])
    if rng.random() < 0.5:
        step = int(rng.choice([8, 16, 32]))
        radius = rng.uniform(0.15, 0.45) * step
        for y in range(step // 2, SIDE, step):
            for x in range(step // 2, SIDE, step):
                cv2.circle(picture, (x, y), round(radius), rgb(colours[1 + (x // step) % 2]), -1, cv2.LINE_AA)
        return picture
    for _ in range(int(rng.integers(30, 250))):
        x, y = rng.integers(0, SIDE, 2).tolist()
        cv2.circle(picture, (x, y), int(rng.integers(1, 9)), rgb(colours[rng.integers(6)]), -1, cv2.LINE_AA)
    return picture


def _leaves(rng: np.random.Generator) -> Pixels:
    colours = palette(rng, 8)
    if rng.random() < 0.6:
        colours = (colours * np.array([0.5, 0.9, 0.35])).astype(np.uint8)
    picture = coloured(fractal(rng, 1.2), ramp(rng, 3)) // 2
    for _ in range(int(rng.integers(100, 350))):
        centre, size = rng.integers(0, SIDE, 2).tolist(), int(rng.integers(2, 10))
        axes, angle = (size, max(1, round(size * rng.uniform(0.2, 0.7)))), float(rng.uniform(0, 360))
        cv2.ellipse(picture, centre, axes, angle, 0, 360, rgb(colours[rng.integers(8)]), -1, cv2.LINE_AA)
    return picture


def _grass(rng: np.random.Generator) -> Pixels:
    colours = palette(rng, 6)
    picture = coloured(fractal(rng, 1.2), ramp(rng, 3))
    turn, spread = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9)
    start = rng.integers(0, SIDE, (int(rng.integers(150, 500)), 2))
    angle, length = turn + spread * rng.standard_normal(len(start)), rng.uniform(3, 22, len(start))
    end = start + np.stack([np.cos(angle), np.sin(angle)], axis=1) * length[:, None]
    for a, b, colour in zip(start.tolist(), end.astype(int).tolist(), rng.integers(0, 6, len(start)), strict=True):
        cv2.line(picture, a, b, rgb(colours[colour]), int(1 + colour % 2), cv2.LINE_AA)
    return picture


def _page(rng: np.random.Generator) -> Pixels:
    colours = palette(rng, 2)
    paper, ink = (
        (colours[0], colours[1]) if rng.random() < 0.3 else (np.full(3, 235, np.uint8), np.full(3, 30, np.uint8))
    )
    picture = np.full((SIDE, SIDE, 3), paper, np.uint8)
    lines(picture, (4, 4, SIDE - 4, SIDE - 4), rng, rgb(ink), height=int(rng.integers(6, 16)))
    return picture


def _windows(rng: np.random.Generator) -> Pixels:
    """The front of a house, far off."""
    colours = palette(rng, 5)
    wall = plaster(rng) if rng.random() < 0.5 else bricks(rng)
    columns, rows = (int(n) for n in rng.choice([2, 3, 4, 5], 2))
    width, height = SIDE / columns, SIDE / rows
    w, h = width * rng.uniform(0.3, 0.7), height * rng.uniform(0.4, 0.75)
    bars = int(rng.integers(0, 3))
    for row in range(rows):
        for column in range(columns):
            x, y = (column + 0.5) * width, (row + 0.5) * height
            a, b = (round(x - w / 2), round(y - h / 2)), (round(x + w / 2), round(y + h / 2))
            pane = colours[1] if rng.random() < 0.7 else colours[rng.integers(5)]
            cv2.rectangle(wall, a, b, rgb(pane // 2), -1)
            cv2.rectangle(wall, a, b, rgb(colours[0]), 1 + bars // 2)
            for bar in range(1, bars + 1):
                level = round(a[1] + (b[1] - a[1]) * bar / (bars + 1))
                cv2.line(wall, (a[0], level), (b[0], level), rgb(colours[0]), 1)
            if bars:
                cv2.line(wall, (round(x), a[1]), (round(x), b[1]), rgb(colours[0]), 1)
    return wall


def _shelf(rng: np.random.Generator) -> Pixels:
    """Backs of books, or goods side by side."""
    colours = palette(rng, 10)
    picture = np.full((SIDE, SIDE, 3), 25, np.uint8)
    rows = int(rng.integers(1, 4))
    for row in range(rows):
        x, bottom = 0, (row + 1) * SIDE // rows - 3
        while x < SIDE:
            width = int(rng.integers(5, 26))
            top = row * SIDE // rows + int(rng.integers(1, max(2, SIDE // rows // 3)))
            colour, other = colours[rng.integers(10)], colours[rng.integers(10)]
            cv2.rectangle(picture, (x, top), (x + width - 1, bottom), rgb(colour), -1)
            for _ in range(int(rng.integers(0, 4))):
                y = int(rng.integers(top, bottom))
                cv2.rectangle(
                    picture, (x, y), (x + width - 2, min(bottom, y + int(rng.integers(1, 9)))), rgb(other), -1
                )
            if width > 12:
                lines(
                    picture, (x + 1, (top + bottom) // 2, x + width - 2, bottom - 2), rng, rgb(255 - colour), height=6
                )
            x += width
        cv2.rectangle(picture, (0, bottom), (SIDE, bottom + 3), rgb(colours[0]), -1)
    return picture


def _polygons(rng: np.random.Generator) -> Pixels:
    colours = palette(rng, 8)
    picture = plain(SIDE, SIDE, colours[0])
    for _ in range(int(rng.integers(6, 60))):
        centre, size = rng.uniform(0, SIDE, 2), rng.uniform(4, 50)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
        corners = centre + size * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(picture, [corners.round().astype(np.int32)], rgb(colours[rng.integers(8)]), cv2.LINE_AA)
    return picture


def _sky(rng: np.random.Generator) -> Pixels:
    down = np.linspace(1, 0, SIDE, dtype=np.float32)[:, None]
    clouds = fractal(rng, rng.uniform(1.0, 1.8), stretch=(2, 1))
    share = rng.uniform(0, 0.7)
    blue = np.array([rng.uniform(60, 180), rng.uniform(110, 200), rng.uniform(170, 255)])
    base = blue + (255 - blue) * (0.8 * (1 - down[..., None]))
    white = ((clouds - (1 - share)) / 0.25).clip(0, 1)[..., None]
    return np.asarray(base * (1 - white) + rng.uniform(150, 255) * white, np.uint8)


_KINDS: tuple[Callable[[np.random.Generator], Pixels], ...] = (
    noise, plaster, plaster, stone, bricks, bricks, wood, wood, marble, cloth, _dots, _leaves, _grass, _page,
    _windows, _shelf, _polygons, _sky,
)  # fmt: skip
