"""Pictures, or boxes in them, at the size at which a recipe describes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resight.geometry.boxes import Box, check_box, crop
from resight.images.image import Image
from resight.images.read import read_image

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

Part = tuple[Image, tuple[float, float], tuple[int, int]]
"""Pixels, the (x, y) of their corner in the upright original, and the original's (width, height)."""


def read_part(
    value: "str | Path | PIL.Image.Image | NDArray[np.uint8] | Image",
    box: Box | None,
    max_side: int,
    min_crop_side: int,
) -> Part:
    """An image, or a box in it; raises as ``read_parts``."""
    if box is None:
        image = read_image(value, max_side=max_side)
        return image, (0.0, 0.0), image.size
    return read_parts(value, [box], max_side, min_crop_side)[0]


def read_parts(
    value: "str | Path | PIL.Image.Image | NDArray[np.uint8] | Image",
    boxes: Sequence[Box],
    max_side: int,
    min_crop_side: int,
) -> list[Part]:
    """Each box of an image, which is read once.

    A crop has the scale the whole image would have with a longest side of ``max_side`` (PROTOCOLS.md), or a finer one
    where its own longest side would fall below ``min_crop_side``. Raises ImageError for an unreadable image and
    QueryError for a box that is empty or leaves it.
    """
    original = read_image(value)
    return [(*_part(original, box, max_side, min_crop_side), original.size) for box in boxes]


def _part(original: Image, box: Box, max_side: int, min_crop_side: int) -> tuple[Image, tuple[float, float]]:
    x1, y1, x2, y2 = check_box(box, original.size, original.origin)
    scale = min(1.0, max_side / max(original.size))
    longest = max(x2 - x1, y2 - y1)
    wanted = round(min(longest, max(longest * scale, min(min_crop_side, max_side))))
    part, corner = crop(original, box)
    return read_image(part, max_side=max(1, wanted)), corner
