"""Sizes of pictures that a network takes, and pictures of several sizes through one that takes stacks of one."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate


class Sizes(Protocol):
    """Of pictures that a network takes: of which their sides are multiples, and the least side, in pixels."""

    multiple: int
    least: int


def side_for(side: int, network: Sizes) -> int:
    """The side that a network takes which is nearest to the one wanted, in pixels, and large enough for it."""
    least = -(-network.least // network.multiple) * network.multiple
    return max(least, round(side / network.multiple) * network.multiple)


def embed_pictures(embed: Callable[[Tensor], Tensor], pictures: Sequence[Tensor], least: int = 1) -> Tensor:
    """Each picture's descriptor, B×D, in order; those of one size go through the network together.

    embed: n×3×H×W uint8 to n×D. pictures: B of 3×H×W uint8. least: side to which smaller sides are stretched.
    """
    places: dict[tuple[int, int], list[int]] = {}
    for place, picture in enumerate(pictures):
        places.setdefault((picture.shape[1], picture.shape[2]), []).append(place)
    parts = []
    for (height, width), own in places.items():
        stacked = torch.stack([pictures[place] for place in own])
        if min(height, width) < least:
            size = (max(height, least), max(width, least))
            stretched = interpolate(stacked.float(), size, mode="bilinear", align_corners=False)
            stacked = stretched.round().to(torch.uint8)
        parts.append(embed(stacked))
    order = torch.tensor([place for own in places.values() for place in own])
    return torch.cat(parts)[torch.argsort(order).to(parts[0].device)]
