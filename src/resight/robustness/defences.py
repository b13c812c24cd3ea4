"""What is done to a query before it is searched with, so that small alterations of it lose their effect (survey §7).

Each knows two ways: what the search does to pixels, and the same with gradients, for attackers who know of it.
Smoothing and JPEG: Dziugaite, Ghahramani & Roy 2016; Guo, Rana, Cissé & van der Maaten, ICLR 2018. Random sizes: Xie,
Wang, Zhang, Ren & Yuille, ICLR 2018, who pad besides. (Papers not checked.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from resight.errors import ResightError
from resight.robustness.attacks import Pixels
from resight.robustness.gradients import as_pixels, as_tensor, straight_through
from resight.robustness.photometric import blur, compress


@dataclass(frozen=True)
class Defence:
    """name: as it is asked for. text: what it does, and how an attacker who knows of it follows its gradient.

    apply: pixels and a seed to pixels. through: the same of 1×3×H×W floating pixels from 0 to 255, with gradients.
    drawn: whether the seed matters.
    """

    name: str
    text: str
    apply: Callable[[Pixels, int], Pixels]
    through: Callable[[Tensor, int], Tensor]
    drawn: bool = False


def make_defence(asked: str) -> Defence:
    """Of ``none``, ``gaussian[:σ]``, ``median[:side]``, ``jpeg[:quality]`` or ``resize[:least]``.

    Raises ResightError for others, and values that cannot be.
    """
    kind, colon, text = asked.partition(":")
    if kind not in _MADE or (kind == "none" and colon):
        raise ResightError(
            f"there is no defence {asked!r}: choose {', '.join(_MADE)}, the latter with :VALUE or without"
        )
    make, default, check, valid = _MADE[kind]
    try:
        value = float(text) if colon else default
    except ValueError:
        value = float("nan")
    if not check(value):
        raise ResightError(f"defence {asked}: {valid}")
    return make(f"{kind}:{value:g}" if colon else kind, value)


def _nothing(name: str, value: float) -> Defence:
    return Defence(name, "nothing is done to the query", lambda pixels, seed: pixels, lambda x, seed: x)


def _gaussian(name: str, sigma: float) -> Defence:
    side = round(6 * sigma + 1) | 1  # as OpenCV chooses it for 8 bits
    kernel = torch.from_numpy(cv2.getGaussianKernel(side, sigma, cv2.CV_32F)).flatten()

    def through(x: Tensor, seed: int) -> Tensor:
        reach = side // 2
        across, down = kernel.view(1, 1, 1, -1).repeat(3, 1, 1, 1), kernel.view(1, 1, -1, 1).repeat(3, 1, 1, 1)
        rows, columns = (torch.from_numpy(np.pad(np.arange(n), reach, mode="reflect")) for n in x.shape[-2:])
        wide = x[..., rows[:, None], columns]  # torch's own padding refuses pictures smaller than the kernel
        smooth = conv2d(conv2d(wide, across.to(x), groups=3), down.to(x), groups=3)
        return straight_through(smooth, smooth.round())

    def apply(pixels: Pixels, seed: int) -> Pixels:
        return blur(pixels, 100 * sigma / max(pixels.shape[:2]), 0)

    return Defence(name, f"Gaussian of σ = {sigma:g} px; attacked by its own gradient", apply, through)


def _median(name: str, side: float) -> Defence:
    def apply(pixels: Pixels, seed: int) -> Pixels:
        return np.asarray(cv2.medianBlur(np.ascontiguousarray(pixels), int(side)), np.uint8)

    text = f"median of {side:g}×{side:g} px; attacked with the gradient of the identity in its place"
    return Defence(name, text, apply, _as_identity(apply))


def _jpeg(name: str, quality: float) -> Defence:
    def apply(pixels: Pixels, seed: int) -> Pixels:
        return compress(pixels, 100 - quality, 0)

    text = f"JPEG of quality {quality:g}; attacked with the gradient of the identity in its place"
    return Defence(name, text, apply, _as_identity(apply))


def _resize(name: str, least: float) -> Defence:
    def size(height: int, width: int, seed: int) -> tuple[int, int]:
        factor = np.random.default_rng(seed).uniform(least, 1.0)
        return max(1, round(height * factor)), max(1, round(width * factor))

    def apply(pixels: Pixels, seed: int) -> Pixels:
        high, wide = size(pixels.shape[0], pixels.shape[1], seed)
        return np.asarray(PIL.Image.fromarray(pixels).resize((wide, high), PIL.Image.Resampling.BILINEAR))

    def through(x: Tensor, seed: int) -> Tensor:
        sides = size(x.shape[2], x.shape[3], seed)
        smaller = interpolate(x, sides, mode="bilinear", align_corners=False, antialias=True)
        return straight_through(smaller, smaller.round())

    text = (
        f"sides reduced by one factor, drawn for each query from {least:g} to 1; attacked by the mean gradient of "
        "other draws"
    )
    return Defence(name, text, apply, through, drawn=True)


def _as_identity(apply: Callable[[Pixels, int], Pixels]) -> Callable[[Tensor, int], Tensor]:
    def through(x: Tensor, seed: int) -> Tensor:
        changed = apply(as_pixels(x.detach().round()), seed)
        return straight_through(x, as_tensor(changed).to(x))

    return through


_Make = tuple[Callable[[str, float], Defence], float, Callable[[float], bool], str]
_MADE: dict[str, _Make] = {
    "none": (_nothing, 0.0, lambda value: True, ""),
    "gaussian": (_gaussian, 1.0, lambda value: 0.1 <= value <= 10, "σ is in pixels, from 0.1 to 10"),
    "median": (_median, 3.0, lambda value: value in (3, 5, 7, 9), "the side is 3, 5, 7 or 9 pixels"),
    "jpeg": (_jpeg, 75.0, lambda value: value in range(1, 100), "quality is a whole number from 1 to 99"),
    "resize": (_resize, 0.7, lambda value: 0.1 <= value < 1, "the least factor is from 0.1 to below 1"),
}
DEFENCES = tuple(_MADE)
"""The kinds there are; ``verification`` is the recipe's own."""
