"""SPoC: sum pooling with a Gaussian that prefers the centre (survey §4.2.1; Babenko & Lempitsky, ICCV 2015)."""

import torch
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map, weighted_sum


def spoc(x: Tensor) -> Tensor:
    """B×C×H×W to B×C: Σ_{h,w} ``centre_prior``(h, w) · x. Raises ValueError for another shape."""
    check_map(x)
    return weighted_sum(x, centre_prior(x.shape[2], x.shape[3]).to(x))


def centre_prior(height: int, width: int) -> Tensor:
    """H×W float64: α = exp(−((h − H/2)² + (w − W/2)²) / (2σ²)), σ = min(H, W)/6.

    σ is a third of the distance from the centre to the nearest border. A cell lies at its middle, h = ½, 1½ … H − ½,
    so that H/2 is the centre of the map and the prior its own mirror image. The paper sums over h = 1 … H; taken as
    coordinates, these would put the peak half a cell above and left of the centre.
    """
    sigma = min(height, width) / 6
    h = torch.arange(height, dtype=torch.float64) + 0.5 - height / 2
    w = torch.arange(width, dtype=torch.float64) + 0.5 - width / 2
    return torch.exp(-(h[:, None] ** 2 + w**2) / (2 * sigma**2))


class Spoc(nn.Module):
    """``spoc``; B×C×H×W to B×C."""

    def forward(self, x: Tensor) -> Tensor:
        return spoc(x)
