"""Sum pooling, and the weighted sums over positions that most other poolings are (survey §4.2.1)."""

import torch
from torch import Tensor, nn


def sum_pooling(x: Tensor) -> Tensor:
    """B×C×H×W to B×C: each channel's sum over positions. Raises ValueError for another shape."""
    check_map(x)
    return x.sum(dim=(2, 3))


def weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Σ_{h,w} weights · x for each channel.

    x: B×C×H×W. weights: H×W or B×H×W gives B×C; B×T×H×W, T weightings an image, gives B×T×C.
    Raises ValueError where these do not fit.
    """
    check_map(x)
    per_image = weights.ndim > 2
    if not 2 <= weights.ndim <= 4 or weights.shape[-2:] != x.shape[2:] or (per_image and len(weights) != len(x)):
        raise ValueError(f"weights {tuple(weights.shape)} do not fit a map of B×C×H×W = {tuple(x.shape)}")
    if weights.ndim == 4:
        return weights.flatten(2) @ x.flatten(2).mT
    return (x * (weights.unsqueeze(1) if per_image else weights)).sum(dim=(2, 3))


def unit(x: Tensor) -> Tensor:
    """Vectors along the last axis divided by their Euclidean norm; zero vectors stay zero and have finite gradients."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.where(norm > 0, 1.0)


def check_map(x: Tensor) -> None:
    """Raises ValueError unless x is B×C×H×W with H and W at least 1."""
    if x.ndim != 4 or 0 in x.shape[2:]:
        raise ValueError(f"x must be B×C×H×W with H and W at least 1, not {tuple(x.shape)}")


class SumPooling(nn.Module):
    """``sum_pooling``; B×C×H×W to B×C."""

    def forward(self, x: Tensor) -> Tensor:
        return sum_pooling(x)
