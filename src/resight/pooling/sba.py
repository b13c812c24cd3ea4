"""SBA and PWA: discriminative channels as soft proposals (survey §4.2.3; Xu et al., AAAI 2018; IEEE TIP 2019).

The authors' first name is PWA, part-based weighting aggregation; SBA, semantic-based aggregation, is the later one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resight.pooling.crow import normalised_power
from resight.pooling.sum_pooling import check_map, weighted_sum


def pwa(x: Tensor, channels: Tensor, alpha: float = 2.0, beta: float = 2.0) -> Tensor:
    """B×C×H×W to B×(n·C): for each of the n channels, in their order, Σ_{h,w} ``part_weights`` · x; concatenated.

    Theirs are the 25 of ``select_channels``, then ℓ2 and PCA-whitening. Raises ValueError as ``part_weights``.
    """
    return weighted_sum(x, part_weights(x, channels, alpha, beta)).flatten(1)


def part_weights(x: Tensor, channels: Tensor, alpha: float = 2.0, beta: float = 2.0) -> Tensor:
    """B×C×H×W to B×n×H×W: (x_k / (Σ_{h,w} x_k^α)^{1/α})^{1/β} of each channel k of ``channels``.

    channels: (n,) int64. alpha at least 1, beta above 0. Activations of 0 or less weigh nothing.
    Raises ValueError where these do not fit.
    """
    check_map(x)
    if channels.ndim != 1 or (channels.numel() and not 0 <= int(channels.min()) <= int(channels.max()) < x.shape[1]):
        raise ValueError(f"channels must be a list of indices from 0 to {x.shape[1] - 1}, not {channels.tolist()}")
    return normalised_power(x[:, channels], alpha, beta)


def select_channels(variance: Tensor, n: int) -> Tensor:
    """The n channels that vary most, largest variance first, ties by channel: (n,) int64.

    variance: (C,), of each channel's sum over positions, over the images of a collection.
    Raises ValueError where there are fewer channels.
    """
    if variance.ndim != 1 or not 1 <= n <= len(variance):
        raise ValueError(f"cannot select {n} channels by variances of shape {tuple(variance.shape)}")
    return variance.sort(descending=True, stable=True).indices[:n]


class Pwa(nn.Module):
    """``pwa`` with its channels; B×C×H×W to B×(n·C)."""

    channels: Tensor

    def __init__(self, channels: Sequence[int], alpha: float = 2.0, beta: float = 2.0) -> None:
        super().__init__()
        self.register_buffer("channels", torch.tensor(channels, dtype=torch.int64))
        self.alpha = alpha
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return pwa(x, self.channels, self.alpha, self.beta)
