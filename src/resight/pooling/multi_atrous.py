"""DOLG's local branch: features of several fields of view, weighed by what they show (Yang et al., ICCV 2021, §3.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map

RATES = (6, 12, 18)
"""Published dilations of the 3×3 convolutions, for ResNet's third stage at stride 16."""


class AtrousPyramid(nn.Module):
    """A 1×1 convolution, a 3×3 one for each dilation and the map's mean, joined; B×C×H×W to B×dimensions×H×W.

    Each gives ``inner`` channels, a 1×1 convolution and ReLU make ``dimensions`` of them. Names and order are those of
    ``ASPP`` in feymanpriv/DOLG.
    """

    def __init__(self, channels: int, dimensions: int = 1024, inner: int = 512, rates: Sequence[int] = RATES) -> None:
        super().__init__()
        spread = (nn.Conv2d(channels, inner, 3, padding=rate, dilation=rate) for rate in rates)
        self.aspp = nn.ModuleList([nn.Conv2d(channels, inner, 1), *spread])
        self.im_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU())
        self.conv_after = nn.Sequential(nn.Conv2d(inner * (len(self.aspp) + 1), dimensions, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.im_pool(x)
        parts = [pooled.expand(-1, -1, *x.shape[2:]), *(convolution(x) for convolution in self.aspp)]
        joined: Tensor = self.conv_after(torch.cat(parts, dim=1))
        return joined


class MultiAtrousAttention(nn.Module):
    """Local features y = BN(conv1(pyramid(x))) as softplus(conv2(ReLU(y))) · y/‖y‖; B×C×H×W to B×dimensions×H×W.

    Names are those of ``SpatialAttention2d`` in feymanpriv/DOLG, so that what begins with ``localmodel.`` in its
    checkpoints loads: of 1024 channels and dimensions. Convolutions start as there: normal, of variance 2 / (outputs ·
    area), and zero biases. Raises ValueError where a size or rate is below 1, or there is no rate.
    """

    def __init__(self, channels: int, dimensions: int = 1024, inner: int = 512, rates: Sequence[int] = RATES) -> None:
        super().__init__()
        if not rates or min(channels, dimensions, inner, *rates) < 1:
            sizes = f"{channels}, {dimensions}, {inner} and {tuple(rates)}"
            raise ValueError(f"channels, dimensions, inner and each of some rates must be 1 or more, not {sizes}")
        self.dimensions = dimensions
        self.aspp = AtrousPyramid(channels, dimensions, inner, rates)
        self.conv1 = nn.Conv2d(dimensions, dimensions, 1)
        self.bn = nn.BatchNorm2d(dimensions)
        self.conv2 = nn.Conv2d(dimensions, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        check_map(x)
        features = self.bn(self.conv1(self.aspp(x)))
        scores = F.softplus(self.conv2(F.relu(features)))
        return F.normalize(features, dim=1) * scores
