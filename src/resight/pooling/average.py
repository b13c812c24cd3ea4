"""Average pooling, the uniform SPoC (survey §4.2.1; Babenko & Lempitsky, ICCV 2015, without the centring prior)."""

from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map


def average(x: Tensor) -> Tensor:
    """B×C×H×W to B×C: each channel's mean over positions. Raises ValueError for another shape."""
    check_map(x)
    return x.mean(dim=(2, 3))


class Average(nn.Module):
    """``average``; B×C×H×W to B×C."""

    def forward(self, x: Tensor) -> Tensor:
        return average(x)
