"""The same pictures learned from again, as others: turned by right angles, mirrored, their colours exchanged.

Where pictures are rendered more slowly than they are learned from, each batch is used several times (data echoing: Choi
et al., "Faster neural network training with data echoing", 2019). All changes are exact: no pixel is sampled anew.
"""

import torch
from torch import Tensor

from resight.learning.procedural.scenes import Scenes


def altered(scenes: Scenes, draw: torch.Generator) -> Scenes:
    """Subjects seen in a mirror or not, turned by a multiple of 90°, with their colour channels in another order.

    Both views of all subjects alike, so that a pair stays one. draw: on the CPU.
    """
    mirrored, turns = bool(torch.randint(2, (), generator=draw)), int(torch.randint(4, (), generator=draw))
    channels = torch.randperm(3, generator=draw).to(scenes.images.device)
    images = _turned(scenes.images.index_select(2, channels), mirrored, turns, (3, 4))
    warp = _turned(scenes.warp, mirrored, turns, (2, 3))
    last = scenes.warp.shape[2] - 1
    x, y = warp.unbind(-1)
    if mirrored:
        x = last - x
    for _ in range(turns):
        x, y = y, last - x
    return Scenes(images, torch.stack([x, y], dim=-1), _turned(scenes.visible, mirrored, turns, (2, 3)), scenes.subject)


def _turned(x: Tensor, mirrored: bool, turns: int, axes: tuple[int, int]) -> Tensor:
    """Mirrored left to right, then turned anticlockwise; axes: of rows and columns."""
    return torch.rot90(x.flip(axes[1]) if mirrored else x, turns, axes)
