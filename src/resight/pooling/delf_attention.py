"""DELF's scorer: which local features deserve a place in the index (survey §4.2.3; Noh et al., ICCV 2017)."""

import torch.nn.functional as F
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map, weighted_sum


def attention_pool(x: Tensor, scores: Tensor) -> Tensor:
    """Σ_{h,w} scores · x/‖x‖, the vector on which a classifier trains the scorer (Eq. 1).

    x: B×C×H×W. scores: B×1×H×W. Returns B×C. Features are ℓ2-normalised as in DELG's code (tensorflow/models), so
    that a score cannot be made up for by a feature's length; that code divides the sum by H·W.
    Raises ValueError where the two do not fit.
    """
    check_map(x)
    return weighted_sum(F.normalize(x, dim=1), scores).squeeze(1)


class DelfAttention(nn.Module):
    """1×1 convolution to ``hidden``, batch normalisation, ReLU, 1×1 convolution to one, softplus.

    B×C×H×W to scores of B×1×H×W, above 0. Names, ε and momentum are those of ``AttentionModel`` in DELG's code
    (conv1, bn_conv1, conv2), whose weights load once transposed from Keras's layout; the paper has no normalisation.
    It is trained, the map held fixed, by a classifier on ``attention_pool``.
    """

    def __init__(self, channels: int, hidden: int = 512, *, normalise: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.bn_conv1 = nn.BatchNorm2d(hidden, eps=1e-3, momentum=0.01) if normalise else nn.Identity()
        self.conv2 = nn.Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x)
        return F.softplus(self.conv2(F.relu(self.bn_conv1(self.conv1(x)))))
