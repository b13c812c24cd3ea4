"""Boxes (x1, y1, x2, y2) in pixels of the upright original, and crops that remember where they came from."""

import math

from resight.errors import QueryError
from resight.images.image import Image

Box = tuple[float, float, float, float]


def check_box(box: Box, size: tuple[int, int], name: str) -> Box:
    """The box as floats; QueryError if it is empty, not finite or leaves an image of (width, height) `size`."""
    x1, y1, x2, y2 = (float(v) for v in box)
    width, height = size
    if not all(math.isfinite(v) for v in (x1, y1, x2, y2)) or x2 - x1 < 1 or y2 - y1 < 1:
        raise QueryError(f"{name}: the box {box} is empty; give x1,y1,x2,y2 in pixels with x1 < x2 and y1 < y2")
    if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        raise QueryError(f"{name}: the box {box} leaves the image, which is {width}×{height} pixels when upright")
    return x1, y1, x2, y2


def crop(image: Image, box: Box) -> tuple[Image, tuple[float, float]]:
    """The part of an image inside a box, as an image of its own, and the (x, y) of its corner in the original.

    Pixel rows and columns that the box touches are kept whole, so the crop can be a little larger than the box.
    A point (u, v) of the crop, in its own full-size pixels, is (u + x, v + y) in the original.
    """
    x1, y1, x2, y2 = check_box(box, image.size, image.origin)
    sx, sy = image.scale
    left, top = int(x1 * sx), int(y1 * sy)
    right = min(image.pixels.shape[1], max(left + 1, math.ceil(x2 * sx)))
    bottom = min(image.pixels.shape[0], max(top + 1, math.ceil(y2 * sy)))
    pixels = image.pixels[top:bottom, left:right]
    size = max(1, round((right - left) / sx)), max(1, round((bottom - top) / sy))
    return Image(pixels, size, image.origin), (left / sx, top / sy)
