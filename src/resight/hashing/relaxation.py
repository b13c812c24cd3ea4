"""Codes relaxed so that they have gradients, and what makes relaxed codes good ones (survey §4.2.4).

The sign is relaxed to tanh or a sigmoid (Wang et al., "A survey on learning to hash", TPAMI 2018), ever steeper where
it is continued as in HashNet (Cao et al., ICCV 2017). The losses are of codes near ±1, and means, where the papers have
sums, so that their weights need not follow the batch and the number of bits.
"""

from typing import Literal

import torch
from torch import Tensor


def relax(x: Tensor, beta: float = 1.0, activation: Literal["tanh", "sigmoid"] = "tanh") -> Tensor:
    """tanh(βx), within ±1, or 1 / (1 + exp(−βx)), within 0 … 1; towards the sign or the bit of x as β grows."""
    return torch.tanh(beta * x) if activation == "tanh" else torch.sigmoid(beta * x)


def hashnet_beta(step: int, *, gamma: float = 0.005, power: float = 0.5, every: int = 200) -> float:
    """β = (1 + γ·step)^power at a step of training, renewed every so many: the schedule of HashNet's published code.

    gamma: 0 keeps β at 1. Raises ValueError for a step or gamma below 0, or every below 1.
    """
    if step < 0 or gamma < 0 or every < 1:
        raise ValueError(f"step and gamma must be at least 0 and every at least 1, not {step}, {gamma} and {every}")
    return float((1.0 + gamma * (step - step % every)) ** power)


def quantisation_loss(codes: Tensor) -> Tensor:
    """Mean of (|r| − 1)², the squared distance from each entry of N×B relaxed codes to its sign."""
    return (codes.abs() - 1).square().mean()


def balance_loss(codes: Tensor) -> Tensor:
    """Mean over B bits of the square of each one's mean over N codes: 0 where each is as often +1 as −1."""
    return codes.mean(dim=0).square().mean()


def decorrelation_loss(codes: Tensor) -> Tensor:
    """‖RᵀR/N − I‖²_F / B of N×B codes R: 0 where bits are uncorrelated (Weiss et al., "Spectral hashing", NIPS 2008).

    N codes span N directions at most, so for N < B it cannot fall below 1 − N/B.
    """
    gram = codes.T @ codes / len(codes)
    return (gram - torch.eye(codes.shape[1], dtype=codes.dtype, device=codes.device)).square().sum() / codes.shape[1]
