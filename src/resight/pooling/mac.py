"""MAC: maximum activations of convolutions (survey §4.2.1; Razavian et al. 2014; Tolias, Sicre & Jégou 2016)."""

from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map


def mac(x: Tensor) -> Tensor:
    """B×C×H×W to B×C: each channel's maximum over positions. Raises ValueError for another shape."""
    check_map(x)
    return x.amax(dim=(2, 3))


class Mac(nn.Module):
    """``mac``; B×C×H×W to B×C."""

    def forward(self, x: Tensor) -> Tensor:
        return mac(x)
