"""Where keypoints should be: corners that both views of a rendered pair have.

MagicPoint and SuperPoint (DeTone, Malisiewicz & Rabinovich, CVPRW 2018) learn where a detector answers under several
known warps of a picture. Here the detector is Shi & Tomasi's (CVPR 1994), and the warp is that of the pair: a corner of
noise, blur or compression is in one view only, and does not count.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from resight.networks.compact import CELL

UNKNOWN = -100  # what PyTorch's cross-entropy leaves out
_LUMA = (0.299, 0.587, 0.114)
_LEAST = 1e-12  # of a response, before its logarithm


def corner_response(images: Tensor, sigma: float) -> Tensor:
    """N×H×W: the smaller eigenvalue of the structure tensor of n×3×H×W RGB in [0, 1] under a Gaussian of σ pixels."""
    red, green, blue = (weight * images[:, channel] for channel, weight in enumerate(_LUMA))
    grey = red + green + blue
    dx, dy = _difference(grey, 2), _difference(grey, 1)
    xx, yy, xy = (_blur(product, sigma) for product in (dx * dx, dy * dy, dx * dy))
    half = (xx + yy) / 2
    return (half - ((xx - yy).square() / 4 + xy.square()).sqrt()).clamp(min=0)


def shared_response(response: Tensor, warp: Tensor, visible: Tensor) -> Tensor:
    """B×2×H×W: the geometric mean of a pixel's response and that of its place in the other view; 0 where it has none.

    response: B×2×H×W. warp, visible: as ``Scenes`` has them.
    """
    b, _, h, w = response.shape
    size = warp.new_tensor([w, h])
    grid = ((warp + 0.5) * 2 / size - 1).flatten(0, 1)
    other = response.flip(1).reshape(2 * b, 1, h, w)
    there = F.grid_sample(other, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    product = response * there.reshape(b, 2, h, w).clamp(min=0)
    return torch.where(visible, product.clamp(min=_LEAST**2).sqrt(), 0.0)


def cell_targets(shared: Tensor, own: Tensor, visible: Tensor, quality: float) -> Tensor:
    """N×H/8×W/8 int64: the place, by row, of a cell's keypoint among its 64 pixels; 64 for none; UNKNOWN for neither.

    shared, own, visible: N×H×W, of ``shared_response``, and the picture's response alone. A keypoint is a pixel whose
    shared response is at least ``quality`` times the picture's greatest and that none within 4 pixels exceeds; the
    greatest of a cell's. A cell without one is unknown if it has such a response of its own where only it looks.
    """
    along = F.max_pool2d(shared[:, None], (1, 9), stride=1, padding=(0, 4))
    peak = F.max_pool2d(along, (9, 1), stride=1, padding=(4, 0))[:, 0]
    floor = (quality * shared.flatten(1).amax(dim=1)).clamp(min=_LEAST)[:, None, None]
    kept = torch.where((shared >= peak) & (shared >= floor), shared, 0.0)
    value, place = F.pixel_unshuffle(kept[:, None], CELL).max(dim=1)
    alone = F.max_pool2d(torch.where(visible, 0.0, own)[:, None], CELL)[:, 0] >= floor
    return torch.where(value > 0, place, torch.where(alone, UNKNOWN, CELL * CELL))


def target_pixels(targets: Tensor) -> Tensor:
    """N×H×W bool: the keypoints of ``cell_targets``."""
    chosen = F.one_hot(torch.where(targets < 0, CELL * CELL, targets), CELL * CELL + 1)[..., :-1].permute(0, 3, 1, 2)
    return F.pixel_shuffle(chosen.float(), CELL)[:, 0] > 0


def _difference(grey: Tensor, axis: int) -> Tensor:
    """Central differences of N×H×W along an axis; the border is repeated."""
    length = grey.shape[axis]
    padded = torch.cat([grey.narrow(axis, 0, 1), grey, grey.narrow(axis, length - 1, 1)], dim=axis)
    return (padded.narrow(axis, 2, length) - padded.narrow(axis, 0, length)) / 2


def _blur(x: Tensor, sigma: float) -> Tensor:
    """N×H×W under a Gaussian cut off at 3σ; the border is repeated. By matrices, which is fastest for one channel."""
    down, along = (_gaussian(length, sigma).to(x) for length in x.shape[1:])
    return down @ x @ along.T


def _gaussian(length: int, sigma: float) -> Tensor:
    """length×length: row i blurs position i."""
    reach = round(3 * sigma)
    offset = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-offset.double().square() / (2 * sigma**2))
    at = (torch.arange(length)[:, None] + offset).clamp(0, length - 1)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(
        1, at, (kernel / kernel.sum()).expand(length, -1)
    )
