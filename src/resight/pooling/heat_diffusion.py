"""Heat diffusion: sum pooling that damps bursts of like features (survey §4.2.1; Pang et al., IEEE TMM 2019).

As in the paper and its code (MaJinWakeUp/HeWR), the N = H·W positions are nodes of a graph, joined by conductances
A_ij: the cosine of their features where it is at least a threshold, else 0. Each node also leaks to the ground, at
temperature 0, by Z = ``ground`` times the mean positive conductance. One node i is held at temperature 1; at the
steady state of the heat equation every other is as warm as the mean of its neighbours, by conductance. The warmth
Σ_j u_j that i gives to the graph says how much of the image is like it, and its weight is the inverse.

The N boundary problems need only one matrix: with M = diag(Σ_j A_ij) − A + Z·1, u_j = M⁻¹_ji / M⁻¹_ii, and from
M·(1, …, 1) = Z·(1, …, 1) the weight is 1/Σ_j u_j = Z·M⁻¹_ii. Ours is only that the sum counts the source's own
temperature 1: theirs is w/(1 − w) of our w, without bound for a feature like no other, where ours is 1. k equal
features, joined to no others, weigh (1 + Z)/(k + Z) each: they add up to about one.
"""

import torch
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map, unit, weighted_sum


def heat_diffusion(x: Tensor, mean: Tensor | None = None, threshold: float = 0.1, ground: float = 0.1) -> Tensor:
    """B×C×H×W to B×C: Σ_{h,w} ``heat_weights`` · x. Arguments as there."""
    return weighted_sum(x, heat_weights(x, mean, threshold, ground))


def heat_weights(x: Tensor, mean: Tensor | None = None, threshold: float = 0.1, ground: float = 0.1) -> Tensor:
    """B×C×H×W to B×H×W, above 0 and up to 1: Z·M⁻¹_ii as above.

    mean: (C,), a collection's mean feature, taken from each before their cosines; theirs is over the images
        that whitening is learned from. Without it features after a ReLU are nearly all alike.
    threshold: cosines below are no conductance; at least 0. ground: above 0.
    Two features that are both zero are not joined. Time grows as (H·W)³, memory as (H·W)².
    Raises ValueError where these do not fit.
    """
    check_map(x)
    if threshold < 0 or ground <= 0:
        raise ValueError(f"threshold must be at least 0 and ground above 0, not {threshold} and {ground}")
    if mean is not None and mean.shape != x.shape[1:2]:
        raise ValueError(f"mean must be ({x.shape[1]},) for this map, not {tuple(mean.shape)}")
    features = x.flatten(2).mT.to(torch.promote_types(x.dtype, torch.float32))  # B×N×C; solvers know no half
    dead = (features == 0).all(dim=2)
    directions = unit(features if mean is None else features - mean)
    cosines = directions @ directions.mT
    joined = (cosines >= threshold) & (cosines > 0) & ~(dead.unsqueeze(1) & dead.unsqueeze(2))
    joined &= ~torch.eye(cosines.shape[1], dtype=torch.bool, device=x.device)
    conductance = cosines.where(joined, 0.0)
    edges = joined.sum(dim=(1, 2))
    leak = ground * conductance.sum(dim=(1, 2)) / edges.clamp(min=1)
    leak = leak.where(edges > 0, 1.0)[:, None]  # without a joint any leak gives the weight 1
    identity = torch.eye(cosines.shape[1], dtype=cosines.dtype, device=x.device)
    system = torch.diag_embed(conductance.sum(dim=2) + leak) - conductance
    inverse: Tensor = torch.linalg.solve(system, identity.expand_as(system))
    return (leak * inverse.diagonal(dim1=1, dim2=2)).to(x.dtype).reshape(len(x), *x.shape[2:])


class HeatDiffusion(nn.Module):
    """``heat_diffusion`` with a collection's mean feature, (C,), if there is one; B×C×H×W to B×C."""

    mean: Tensor | None

    def __init__(self, mean: Tensor | None = None, threshold: float = 0.1, ground: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("mean", None if mean is None else mean.detach().clone())
        self.threshold = threshold
        self.ground = ground

    def forward(self, x: Tensor) -> Tensor:
        return heat_diffusion(x, self.mean, self.threshold, self.ground)
