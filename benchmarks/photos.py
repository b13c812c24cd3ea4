"""Collections of any size from real photographs: repeated, each time seen from another side and in another light."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.errors import ImageError
from resight.images.read import read_image
from resight.images.sources import find_sources

_SHIFT = 0.06  # corners move by up to this fraction of the sides
_LIGHT = (0.8, 1.2)


def originals(folder: Path) -> list[Path]:
    """The photographs under a folder that can be read as files, by name. Raises ImageError if there are none."""
    found = [Path(s.origin) for s in find_sources([folder], on_problem=lambda origin, reason: None)]
    if not found:
        raise ImageError(f"{folder}: no photographs there")
    return found


def warped(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """H×W×3 seen under a small random homography and a random brightness, borders mirrored."""
    rng = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + rng.uniform(-_SHIFT, _SHIFT, (4, 2)).astype(np.float32) * (width, height)
    homography = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    seen = cv2.warpPerspective(pixels, homography, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(np.clip(seen * rng.uniform(*_LIGHT), 0, 255), np.uint8)


def write(sources: Sequence[Path], numbers: Iterable[int], into: Path, *, side: int | None = None) -> list[Path]:
    """JPEGs number 0, 1, … of the collection made of some photographs; those already there stay.

    Number i is photograph i mod n, as it is for i < n, else warped with seed i; its longest side at most `side`.
    A photograph that cannot be read is replaced by the next that can.
    """
    into.mkdir(parents=True, exist_ok=True)
    written = []
    for number in numbers:
        path = into / f"{number:06d}.jpg"
        if not path.is_file():
            pixels = _readable(sources, number, side)
            if number >= len(sources):
                pixels = warped(pixels, number)
            cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
        written.append(path)
    return written


def _readable(sources: Sequence[Path], number: int, side: int | None) -> NDArray[np.uint8]:
    for step in range(len(sources)):
        try:
            return read_image(sources[(number + step) % len(sources)], max_side=side).pixels
        except ImageError:
            continue
    raise ImageError("none of the photographs can be read")
