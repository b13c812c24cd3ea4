"""Prints: what is on pictures, posters, cartons and labels."""

import cv2
import numpy as np

from resight.learning.procedural.colours import Pixels, palette, plain, resized, rgb
from resight.learning.procedural.lettering import Box, fitted, lines, word
from resight.learning.procedural.marks import bars, emblem, scribble
from resight.learning.procedural.paintings import Surfaces, painting, piece

SIDE = 256


def print_(
    layout: np.random.Generator,
    content: np.random.Generator,
    aspect: float,
    pool: Surfaces,
    *,
    pure: float = 0.0,
    side: int = SIDE,
) -> Pixels:
    """A print side×side×3 that is to be stretched to an aspect of width by height.

    layout: says what is where. content: in what colours, with which words and pictures. pure: how often it is a
    painting, with nothing printed on it.
    """
    width, height = (side, max(40, round(side / aspect))) if aspect >= 1 else (max(40, round(side * aspect)), side)
    if layout.random() < pure:
        return resized(painting(content, width, height, pool), side, side)
    colours = palette(content, 6)
    picture = _ground(layout, content, width, height, colours, pool)
    places = _places(layout, width, height)
    for number, box in enumerate(places):
        _element(picture, box, number, layout, content, colours, pool)
    return resized(picture, side, side)


def _ground(
    layout: np.random.Generator, content: np.random.Generator, width: int, height: int, colours: Pixels, pool: Surfaces
) -> Pixels:
    kind = int(layout.integers(4))
    if kind == 0:
        return painting(content, width, height, pool)
    picture = plain(width, height, colours[0])
    if kind == 1:
        share = (np.linspace(0, 1, width)[None] * np.linspace(0.3, 1, height)[:, None] * 255).astype(np.uint8)
        run = np.linspace(colours[0], colours[1], 256).astype(np.uint8).reshape(256, 1, 3)
        picture = np.asarray(cv2.LUT(cv2.merge([share] * 3), run))
    elif kind == 2:
        cuts = np.sort(layout.random(int(layout.integers(1, 4)))) * height
        bands = np.searchsorted(cuts, np.arange(height)) % 6
        picture = np.repeat(colours[bands][:, None], width, axis=1)
    return picture


def _places(layout: np.random.Generator, width: int, height: int) -> list[Box]:
    """Boxes that do not overlap, by cutting the whole at random, and one or two upon them."""
    whole = (0, 0, width, height)
    boxes = [whole]
    for _ in range(int(layout.integers(2, 6))):
        x1, y1, x2, y2 = boxes.pop(int(np.argmax([(b[2] - b[0]) * (b[3] - b[1]) for b in boxes])))
        share = layout.uniform(0.3, 0.7)
        if (x2 - x1) * layout.uniform(0.5, 1.5) > y2 - y1:
            cut = round(x1 + share * (x2 - x1))
            boxes += [(x1, y1, cut, y2), (cut, y1, x2, y2)]
        else:
            cut = round(y1 + share * (y2 - y1))
            boxes += [(x1, y1, x2, cut), (x1, cut, x2, y2)]
    margin = int(layout.integers(0, 8))
    boxes = [(a + margin, b + margin, c - margin, d - margin) for a, b, c, d in boxes]
    for _ in range(int(layout.integers(0, 3))):
        w, h = (layout.uniform(0.15, 0.5, 2) * (width, height)).astype(int).tolist()
        x, y = int(layout.integers(width - w)), int(layout.integers(height - h))
        boxes.append((x, y, x + w, y + h))
    return [b for b in boxes if b[2] - b[0] > 9 and b[3] - b[1] > 9]


def _element(
    picture: Pixels, box: Box, number: int, layout: np.random.Generator, content: np.random.Generator,
    colours: Pixels, pool: Surfaces,
) -> None:  # fmt: skip
    """One thing printed in a box; upon ``picture``."""
    x1, y1, x2, y2 = box
    one, other = (rgb(colours[i]) for i in content.choice(6, 2, replace=False))
    kind = layout.random()
    if layout.random() < 0.3:
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), other, -1)
    if kind < 0.32:
        fitted(picture, box, word(content), content, one, other if content.random() < 0.4 else None)
    elif kind < 0.52:
        emblem(picture, box, content, colours)
    elif kind < 0.74:
        make = painting if layout.random() < 0.6 else piece
        picture[y1:y2, x1:x2] = make(content, x2 - x1, y2 - y1, pool)
    elif kind < 0.87:
        lines(picture, box, content, one, height=int(layout.integers(7, 15)))
    elif kind < 0.92:
        bars(picture, box, content)
    else:
        scribble(picture, box, content, colours)
