"""Points of rendered pairs that show the same, and what a network's maps hold there."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Points:
    """N points of the surfaces of B pairs.

    xy: N×2×2 float32, where each is in the two views, pixels, (x, y), the centre of pixel (0, 0) being (0, 0).
    pair: N int64, places in the batch, rising.
    """

    xy: Tensor
    pair: Tensor


def draw_points(warp: Tensor, visible: Tensor, weight: Tensor, each: int, draw: torch.Generator) -> Points:
    """At most ``each`` different pixels of one view of each pair, of those that the other sees, and their places in it.

    warp, visible: as ``Scenes`` has them. weight: B×2×H×W, positive; a pixel is drawn sooner the greater its weight.
    Which view is drawn from is a coin's side for each pair. Sampling without replacement is by the keys u^(1/w) of
    Efraimidis & Spirakis, Information Processing Letters 97, 2006.
    """
    b, _, h, w = visible.shape
    device = visible.device
    view = torch.randint(2, (b,), generator=draw).to(device)
    rows = torch.arange(b, device=device)
    keys = torch.rand(b, h * w, generator=draw).to(device).log() / weight[rows, view].flatten(1)
    keys = keys.masked_fill(~visible[rows, view].flatten(1), -torch.inf)
    best, pixel = keys.topk(min(each, h * w), dim=1)
    pair, place = torch.nonzero(best > -torch.inf, as_tuple=True)
    pixel = pixel[pair, place]
    here = torch.stack([pixel % w, pixel // w], dim=1).float()
    there = warp[pair, view[pair], pixel // w, pixel % w]
    first = torch.where(view[pair, None] == 0, here, there)
    return Points(torch.stack([first, torch.where(view[pair, None] == 0, there, here)], dim=1), pair)


def read_map(maps: Tensor, points: Points, view: int, side: tuple[int, int]) -> Tensor:
    """N×C, what B×C×h×w maps of pictures of ``side`` (H, W) pixels have at points, bilinearly; the border's outside."""
    each = torch.bincount(points.pair, minlength=len(maps))
    row = torch.arange(len(points.pair), device=maps.device) - (each.cumsum(0) - each)[points.pair]
    size = torch.tensor([side[1], side[0]], dtype=torch.float32, device=maps.device)
    grid = torch.zeros(len(maps), int(each.max()) if len(row) else 1, 2, device=maps.device)
    grid[points.pair, row] = (points.xy[:, view] + 0.5) * 2 / size - 1
    read = F.grid_sample(maps, grid[:, None], mode="bilinear", padding_mode="border", align_corners=False)
    return read[points.pair, :, 0, row]


def near(points: Points, radius: float) -> Tensor:
    """N×N bool: another point of the same pair within ``radius`` pixels in either view, which is no negative."""
    close = torch.zeros(len(points.pair), len(points.pair), dtype=torch.bool, device=points.xy.device)
    ends = torch.bincount(points.pair).cumsum(0).tolist() if len(points.pair) else []
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        xy = points.xy[begin:end].transpose(0, 1)
        # The direct distance: the faster one by a product is off by tenths of a pixel.
        apart = torch.cdist(xy, xy, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=0)
        close[begin:end, begin:end] = apart <= radius
    close.fill_diagonal_(False)
    return close
