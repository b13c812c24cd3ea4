"""CroW: cross-dimensional weighting (survey §4.2.1, §4.2.3; Kalantidis, Mellina & Osindero, ECCVW 2016).

Where paper and published code (yahoo/crow) differ, this is the code, on which the figures of both rest.
"""

import torch
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map, weighted_sum


def crow(x: Tensor, a: float = 2.0, b: float = 2.0) -> Tensor:
    """B×C×H×W to B×C: ``channel_weights`` · Σ_{h,w} ``spatial_weights`` · x. Raises ValueError as these do."""
    return channel_weights(x) * weighted_sum(x, spatial_weights(x, a, b))


def spatial_weights(x: Tensor, a: float = 2.0, b: float = 2.0) -> Tensor:
    """B×C×H×W to B×H×W: (S / (Σ_{h,w} S^a)^{1/a})^{1/b}, S = Σ_c x_c (paper §4.1).

    a at least 1, b above 0. Positions whose activations sum to 0 or less weigh nothing. Raises ValueError where
    these do not fit.
    """
    check_map(x)
    return normalised_power(x.sum(dim=1), a, b)


def channel_weights(x: Tensor) -> Tensor:
    """B×C×H×W to B×C: log(Σ_k Q_k / Q_c), Q_c the share of positions where channel c is above 0 (paper §4.2).

    A channel that is nowhere above 0 weighs nothing, as in the code; the paper guards the logarithm by an ε, which
    gives such a channel, whose sum is 0 in any case, the largest weight. The code counts activations other than 0,
    the same after a ReLU. A count has no gradient: the weights are constants to back-propagation.
    Raises ValueError for another shape.
    """
    check_map(x)
    share = (x > 0).to(x.dtype).mean(dim=(2, 3))
    fires = share > 0
    return torch.log(share.sum(dim=1, keepdim=True).where(fires, 1.0) / share.where(fires, 1.0))


def normalised_power(maps: Tensor, a: float, b: float) -> Tensor:
    """…×H×W to …×H×W: (m / (Σ_{h,w} m^a)^{1/a})^{1/b} of the positive part m of each map; zero maps stay zero.

    A map times a constant gives the same. Raises ValueError unless a is at least 1 and b above 0.
    """
    if a < 1 or b <= 0:
        raise ValueError(f"the norm's exponent must be at least 1 and the root's above 0, not {a} and {b}")
    positive = maps.clamp(min=0)
    # m^a leaves float32's range for large m; the ratio to the map's maximum, which cancels, does not.
    peak = positive.amax(dim=(-2, -1), keepdim=True).detach()
    ratio = positive / peak.where(peak > 0, 1.0)
    # The sum is 1 at least where there is a maximum; the clamp keeps the root's gradient finite where there is none.
    share = ratio / ratio.pow(a).sum(dim=(-2, -1), keepdim=True).clamp(min=1).pow(1 / a)
    live = share > 0
    return share.where(live, 1.0).pow(1 / b).where(live, 0.0)  # a root has no slope at 0


class Crow(nn.Module):
    """``crow``; B×C×H×W to B×C."""

    def __init__(self, a: float = 2.0, b: float = 2.0) -> None:
        super().__init__()
        self.a = a
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        return crow(x, self.a, self.b)
