"""What follows a descriptor, with gradients: fusion, power law, projection, hash layer (survey §4.2, §5.1)."""

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from resight.hashing.relaxation import relax
from resight.pooling.sum_pooling import unit
from resight.projection.projection import Projection


def join(vectors: Sequence[Tensor], weights: Sequence[float], fusion: Literal["concatenate", "orthogonal"]) -> Tensor:
    """B×D_b of branches to one vector each, ℓ2-normalised: ``features.fusion``'s early fusions, with gradients."""
    parts = [unit(x) for x in vectors]
    if fusion == "orthogonal":
        first, second = parts
        rest = second - (first * second).sum(dim=1, keepdim=True) * first
        return unit(torch.cat([first, weights[1] ** 0.5 * rest], dim=1))
    return unit(torch.cat([w**0.5 * x for w, x in zip(weights, parts, strict=True)], dim=1))


def power(x: Tensor, alpha: float) -> Tensor:
    """sign(x)·|x|^α of each entry, then ℓ2 (``projection.power``); entries of 0, where it has no slope, get none."""
    live = x != 0
    return unit(torch.where(live, x.sign() * x.where(live, 1.0).abs() ** alpha, 0.0))


class LinearProjection(nn.Module):
    """x ↦ ℓ2(P(x − m)), as ``Projection`` applies it; …×D to …×K. A linear layer whose bias is −Pm.

    matrix: P, K×D. mean: m, (D,). Whitening learned end to end (Gordo et al., IJCV 2017; Revaud et al., ICCV 2019).
    """

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean.clone())
        self.matrix = nn.Parameter(matrix.clone())

    @classmethod
    def drawn(cls, dimension: int, dimensions: int, seed: int) -> Self:
        """From D entries to K, by Xavier's uniform distribution (Glorot & Bengio 2010); m is 0."""
        matrix = torch.empty(dimensions, dimension)
        nn.init.xavier_uniform_(matrix, generator=torch.Generator().manual_seed(seed))
        return cls(torch.zeros(dimension), matrix)

    @classmethod
    def of(cls, projection: Projection) -> Self:
        """As a fitted one is."""
        return cls(*(torch.from_numpy(np.array(x, np.float32)) for x in (projection.mean, projection.matrix)))

    def forward(self, x: Tensor) -> Tensor:
        return unit((x - self.mean) @ self.matrix.T)


class HashLayer(nn.Module):
    """x ↦ ℓ2(tanh(βf)), f = Wx + b; B×D to B×bits, whose inner products near 1 − 2h/bits where h bits differ.

    It starts as random hyperplanes through 0 (LSH; Charikar, STOC 2002), drawn with the seed.
    """

    def __init__(self, dimension: int, bits: int, beta: float, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(bits, dimension, generator=torch.Generator().manual_seed(seed)))
        self.bias = nn.Parameter(torch.zeros(bits))
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return unit(relax(x @ self.weight.T + self.bias, self.beta))
