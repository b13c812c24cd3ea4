"""Subjects rendered from two viewpoints, with exact correspondences: what a network of our own learns from."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.learning.procedural.degrade import degrade
from resight.learning.procedural.pool import pool
from resight.learning.procedural.rendering import draw
from resight.learning.procedural.settings import Rendering
from resight.learning.procedural.staging import FILM, generator, staged
from resight.learning.procedural.textures import textures

_T = TypeVar("_T")
_USUAL = Rendering()


@dataclass(frozen=True, eq=False)
class Scenes:
    """B subjects, each seen twice.

    images: B×2×3×H×W float32, RGB in [0, 1], after light, blur, noise and compression.
    warp: B×2×H×W×2 float32; for each pixel of one view the position (x, y) in the other of the surface point that it
        shows, in pixels, the centre of pixel (0, 0) being (0, 0). [:, 0] from view 0 to view 1, [:, 1] back. It is
        finite but says nothing where no surface is seen or the point is not before the other camera.
    visible: B×2×H×W bool: that point is in both views, inside the other one, and nothing hides it there. Where an
        edge hides a part of a pixel it is right to half a pixel.
    subject: B int64; views of equal subjects show the same thing.
    """

    images: Tensor
    warp: Tensor
    visible: Tensor
    subject: Tensor


def render(
    seed: int, first: int, count: int, side: int, *, device: str = "cpu", settings: Rendering = _USUAL
) -> Scenes:
    """Subjects first … first + count - 1 of a seed: each follows from (seed, its number, settings) alone.

    On one device it is the same to the last bit whatever the batch; another device rounds otherwise. Raises ValueError
    for a negative seed or first, a count below 1, or a side below 16.
    """
    if seed < 0 or first < 0 or count < 1 or side < 16:
        raise ValueError(
            f"seed and first must be at least 0, count 1, side 16, not {seed}, {first}, {count} and {side}"
        )
    numbers = range(first, first + count)
    # One at a time fits the caches of a CPU, and its vector instructions may round otherwise at a batch's other end.
    groups = [numbers] if torch.device(device).type != "cpu" else [range(n, n + 1) for n in numbers]
    parts = [_rendered(seed, group, side, device, settings) for group in groups]
    images, warp, visible = (torch.cat(part) for part in zip(*parts, strict=True))
    return Scenes(images, warp, visible, torch.arange(first, first + count, device=device))


def _rendered(seed: int, numbers: range, side: int, device: str, settings: Rendering) -> tuple[Tensor, Tensor, Tensor]:
    surfaces = pool(seed)
    scenes = _each(lambda number: staged(seed, number, side, settings, surfaces), numbers)
    views = [view for pair, _ in scenes for view in pair]
    starts = np.cumsum([0, *(len(own) for _, own in scenes)])[:-1].repeat(2).tolist()
    ready = textures([texture for _, own in scenes for texture in own], device)
    lit, edge, warp, visible = draw(views, starts, ready, side, device)
    light, edges = lit.permute(0, 2, 3, 1).cpu().numpy(), edge.cpu().numpy()

    def filmed(number: int) -> list[NDArray[np.float32]]:
        rng, place = generator(seed, number, FILM), 2 * (number - numbers.start)
        return [degrade(light[i], edges[i], rng, settings) for i in (place, place + 1)]

    pictures = torch.from_numpy(np.array(_each(filmed, numbers))).permute(0, 1, 4, 2, 3).contiguous().to(device)
    b = len(numbers)
    return pictures, warp.reshape(b, 2, side, side, 2), visible.reshape(b, 2, side, side)


def _each(make: Callable[[int], _T], numbers: range) -> list[_T]:
    """What is made of each number; in threads where there are several, as a GPU would wait for one."""
    if len(numbers) == 1:
        return [make(number) for number in numbers]
    with ThreadPoolExecutor(min(len(numbers), os.cpu_count() or 1)) as threads:
        return list(threads.map(make, numbers))
