"""Channel weights from the Gram matrix of the channels (survey §4.2.3; Xiang et al.).

"Deep Image Retrieval: Indicator and Gram Matrix Weighting for Aggregated Convolutional Features". From it is the idea:
the Gram matrix tells which channels fire together, and a channel's weight is its sensitivity, how little the others
say the same. The formula is ours, CroW's inverse frequency with the Gram matrix in place of the count of activations;
their spatial Indicator matrix is not part of it.
"""

import torch
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map, sum_pooling, unit


def gram(x: Tensor) -> Tensor:
    """B×C×H×W to B×C: ``gram_weights`` · Σ_{h,w} x. Raises ValueError for another shape."""
    return sum_pooling(x) * gram_weights(x)


def gram_weights(x: Tensor) -> Tensor:
    """B×C×H×W to B×C: log(Σ_k g_k / g_c), g_c = Σ_k |G_ck|, G_ck the cosine of channels c and k over positions.

    A channel that fires alone has g_c = 1, one that C − 1 others repeat has g_c = C. A zero channel weighs nothing
    and is not counted. Raises ValueError for another shape.
    """
    check_map(x)
    channels = unit(x.flatten(2))
    if bool((x >= 0).all()):  # the sum of cosines is the cosine's product with the sum: no C×C matrix
        strength = (channels @ channels.sum(dim=1).unsqueeze(2)).squeeze(2)
    else:
        strength = (channels @ channels.mT).abs().sum(dim=2)
    fires = strength > 0
    return torch.log(strength.sum(dim=1, keepdim=True).where(fires, 1.0) / strength.where(fires, 1.0))


class Gram(nn.Module):
    """``gram``; B×C×H×W to B×C."""

    def forward(self, x: Tensor) -> Tensor:
        return gram(x)
