"""AGeM: attention-aware generalised-mean pooling (survey §4.2.3; Gu, Li & Xu, arXiv 1811.00202, 2018).

From the paper are the residual form, a mask that can add to the map and cannot blot it out (after Wang et al.,
Residual Attention Network, CVPR 2017), and GeM after it. Ours are the layers of the mask, and that it is learned on
the last map only, where theirs also stands within the network.
"""

import torch
from torch import Tensor, nn

from resight.pooling.crn import reweight
from resight.pooling.gem import GeM, gem
from resight.pooling.sum_pooling import check_map


def attention_gem(x: Tensor, mask: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """B×C×H×W to B×C: ``gem`` of x · (1 + mask). mask: B×1×H×W. Raises ValueError where these do not fit."""
    return gem(reweight(x, 1 + mask), p, eps)


class AttentionGeM(nn.Module):
    """``attention_gem`` with a learned mask; B×C×H×W to B×C.

    mask: 1×1 convolution to ``hidden``, ReLU, 3×3, ReLU, 1×1 to one channel, sigmoid. The last is zero at the start,
    so that all positions weigh 1½ and the vector's direction is GeM's.

    p, per_channel: of ``GeM``, with one p a channel if ``per_channel``.
    """

    def __init__(self, channels: int, hidden: int = 64, p: float = 3.0, *, per_channel: bool = False) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            last := nn.Conv2d(hidden, 1, 1),
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.gem = GeM(p, channels if per_channel else None)

    def mask(self, x: Tensor) -> Tensor:
        """B×C×H×W to B×1×H×W, between 0 and 1."""
        check_map(x)
        return torch.sigmoid(self.attention(x))

    def forward(self, x: Tensor) -> Tensor:
        return attention_gem(x, self.mask(x), self.gem.p, self.gem.eps)
