"""Textures as they are sampled: pyramids of packed colours, read between pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pyramid = NDArray[np.int64]
"""All levels of a square texture after another, the largest first, by row: R + G·2¹⁶ + B·2³², so that sums of four
colours with weights of 8 bits stay in their fields."""


def pyramid(pixels: NDArray[np.uint8]) -> Pyramid:
    """Levels of a texture S×S×3 uint8, S a power of two: each the mean of 2×2 of the last (Williams, 1983)."""
    levels = []
    while True:
        wide = pixels.astype(np.int64)
        levels.append((wide[..., 0] | wide[..., 1] << 16 | wide[..., 2] << 32).ravel())
        if len(pixels) == 1:
            return np.concatenate(levels)
        pixels = cv2.resize(pixels, (len(pixels) // 2, len(pixels) // 2), interpolation=cv2.INTER_AREA).reshape(
            len(pixels) // 2, len(pixels) // 2, 3
        )


@dataclass(frozen=True, eq=False)
class Textures:
    """Pyramids, end to end. start, bits: of each texture its first texel and the logarithm of its side."""

    texels: Tensor
    start: NDArray[np.int32]
    bits: NDArray[np.int32]


def textures(pyramids: Sequence[Pyramid], device: str) -> Textures:
    """Pyramids made ready to be sampled."""
    lengths = np.array([len(p) for p in pyramids])
    # A pyramid of side 2^b has (4^(b + 1) - 1) / 3 texels.
    bits = np.round(np.log2(3 * lengths + 1) / 2).astype(np.int32) - 1
    start = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int32)
    return Textures(torch.from_numpy(np.concatenate(pyramids)).to(device), start, bits)


def sample(texels: Tensor, start: Tensor, bits: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> tuple[Tensor, ...]:
    """Red, green and blue (N,) float32 in [0, 1] at (u, v) of the textures that begin at ``start``, which repeat.

    footprint: side in texels of what one pixel sees, which says the level. Bilinear within the nearest level, in
    fixed point of 8 bits.
    """
    # The exponent of a float32 is its binary logarithm; at √2 on, the next level is nearer.
    level = ((footprint.clamp(min=1.0) * math.sqrt(2)).view(torch.int32) >> 23).sub_(127)
    level = torch.minimum(level, bits)
    rest = bits - level
    first = start + (((1 << (2 * bits + 2)) - (1 << (2 * rest + 2))) // 3)
    scale = (rest + 8).to(torch.float32).exp2_()
    x, y = ((along * scale).sub_(128).floor_().to(torch.int32) for along in (u, v))
    mask = (1 << rest) - 1
    fx, fy = x & 255, y & 255
    x, y = x >> 8, y >> 8
    left, right = x & mask, (x + 1) & mask
    top, bottom = first + ((y & mask) << rest), first + (((y + 1) & mask) << rest)
    both = fx * fy >> 8
    corners = (
        (top, left, 256 - fx - fy + both),
        (top, right, fx - both),
        (bottom, left, fy - both),
        (bottom, right, both),
    )
    total = torch.zeros(u.numel(), dtype=torch.int64, device=u.device)
    for row, column, weight in corners:
        total += texels.index_select(0, (row + column).reshape(-1)) * weight.reshape(-1)
    total = total.reshape(u.shape)
    return tuple(((total >> shift) & 0xFFFF).to(torch.float32).mul_(1 / 65280) for shift in (0, 16, 32))
