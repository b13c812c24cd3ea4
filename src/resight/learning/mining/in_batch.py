"""Triplets chosen in a batch by the distances of its descriptors, as they are at that step.

Anchors are rows of the batch. Positives and negatives are rows of the batch too, or, where a memory of earlier
descriptors is given, of the memory, as of pytorch-metric-learning's ``ref_emb``; the memory must not hold the batch.
Equal distances go to the lower row.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from resight.learning.mining.stages import (
    AllStage,
    DistanceWeightedStage,
    HardestStage,
    MinerStage,
    SemiHardStage,
)
from resight.learning.task import Tuples

Memory = tuple[Tensor, Tensor]
"""M×D descriptors and their (M,) labels."""


def mine(
    stage: MinerStage, x: Tensor, labels: Tensor, memory: Memory | None = None, *, seed: int, step: int
) -> Tuples | None:
    """The triplets (anchor, positive, negative), each (T,) int64, that the settings choose; None for all.

    x: B×D. labels: (B,). seed, step: decide what is drawn. No gradient flows through the choice.
    Raises ValueError for the pool, whose tuples are chosen before the epoch.
    """
    x = x.detach()
    match stage:
        case AllStage():
            return None
        case HardestStage(positives="all"):
            return hardest_negatives(x, labels, memory)
        case HardestStage():
            return batch_hard(x, labels, memory)
        case SemiHardStage():
            return semi_hard(x, labels, memory, margin=stage.margin)
        case DistanceWeightedStage():
            return distance_weighted(x, labels, memory, seed=seed, step=step, cutoff=stage.cutoff, far=stage.far)
    raise ValueError("tuples of the pool are mined before the epoch, by mine_pool")


def hardest_negatives(x: Tensor, labels: Tensor, memory: Memory | None = None) -> Tuples:
    """Each matching pair with the negative closest to either of the two, which is then the anchor (HardNet: Mishchuk,
    Mishkin, Radenović & Matas, NIPS 2017, §3). With a memory, closest to the one in the batch.
    """
    distances, positive, negative = _compared(x, labels, memory)
    nearest = distances.masked_fill(~negative, torch.inf)
    closest = nearest.argmin(dim=1)
    reach = nearest.gather(1, closest[:, None])[:, 0]
    first, second = torch.where(positive if memory is not None else positive.triu(1))
    if memory is None:
        swap = reach[second] < reach[first]
        first, second = torch.where(swap, second, first), torch.where(swap, first, second)
    found = reach[first].isfinite()
    return first[found], second[found], closest[first[found]]


def batch_hard(x: Tensor, labels: Tensor, memory: Memory | None = None) -> Tuples:
    """Each photo with its farthest positive and its closest negative (Hermans, Beyer & Leibe 2017, Eq. 5)."""
    distances, positive, negative = _compared(x, labels, memory)
    anchor = torch.where(positive.any(dim=1) & negative.any(dim=1))[0]
    farthest = distances.masked_fill(~positive, -torch.inf)[anchor].argmax(dim=1)
    closest = distances.masked_fill(~negative, torch.inf)[anchor].argmin(dim=1)
    return anchor, farthest, closest


def semi_hard(x: Tensor, labels: Tensor, memory: Memory | None = None, *, margin: float) -> Tuples:
    """Each anchor and positive with the closest negative that is farther than the positive, by less than the margin in
    squared distance (FaceNet: Schroff, Kalenichenko & Philbin, CVPR 2015, Eq. 4). Those that have none are left out.
    """
    distances, positive, negative = _compared(x, labels, memory)
    ranked, order = distances.masked_fill(~negative, torch.inf).sort(dim=1, stable=True)
    farther = torch.searchsorted(ranked, distances.contiguous(), right=True)  # how many negatives are no farther
    place = farther.clamp(max=ranked.shape[1] - 1)
    gap = ranked.gather(1, place) - distances
    anchor, other = torch.where(positive & (farther < ranked.shape[1]) & (gap < margin))
    return anchor, other, order.gather(1, place)[anchor, other]


def distance_weighted(
    x: Tensor,
    labels: Tensor,
    memory: Memory | None = None,
    *,
    seed: int,
    step: int,
    cutoff: float = 0.5,
    far: float = 1.4,
) -> Tuples:
    """Each anchor and positive with a negative drawn with probability ∝ 1/q(d) (Wu et al., ICCV 2017, §4).

    q(d) ∝ d^(D−2) (1 − d²/4)^((D−3)/2) is the density of distances of points spread evenly on the sphere. Distances
    below ``cutoff`` count as it, which is the paper's λ; none from ``far`` on is drawn, unless an anchor has no other:
    then all its negatives are as likely. Descriptors are ℓ2-normalised here.
    """
    unit = None if memory is None else (normalize(memory[0].detach().float()), memory[1])
    squares, positive, negative = _compared(normalize(x.float()), labels, unit)
    distances = squares.cpu().double().numpy() ** 0.5
    allowed = negative.cpu().numpy()
    rng = np.random.default_rng([seed, step])
    anchor, other = torch.where(positive & negative.any(dim=1)[:, None])
    drawn = []
    for row, count in zip(*np.unique(anchor.cpu().numpy(), return_counts=True), strict=True):
        places = np.flatnonzero(allowed[row])
        near = places[distances[row, places] < far]
        chances = np.exp(_log_inverse_density(distances[row, near], x.shape[1], cutoff)) if len(near) else None
        drawn.append(rng.choice(near if len(near) else places, count, p=chances))
    negatives = np.concatenate(drawn) if drawn else np.empty(0, np.int64)
    return anchor, other, torch.from_numpy(negatives).to(anchor.device)


def _log_inverse_density(distances: NDArray[np.float64], dimensions: int, cutoff: float) -> NDArray[np.float64]:
    """Logarithms of probabilities ∝ 1/q(d); of one anchor, as in many dimensions a batch's span hundreds."""
    d = np.maximum(distances, cutoff)
    log = (2 - dimensions) * np.log(d) - (dimensions - 3) / 2 * np.log1p(-(d**2) / 4)
    normalised: NDArray[np.float64] = log - np.logaddexp.reduce(log)
    return normalised


def _compared(x: Tensor, labels: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor, Tensor]:
    """B×M squared distances, and which pairs match, and which do not; a row does not match itself."""
    x = x.detach() if x.dtype == torch.float64 else x.detach().float()
    others, names = (x, labels) if memory is None else (memory[0].detach().to(x.dtype), memory[1])
    squares = (x**2).sum(dim=1)[:, None] + (others**2).sum(dim=1) - 2 * x @ others.T
    same = labels[:, None] == names
    positive = same.clone()
    if memory is None:
        positive.fill_diagonal_(False)
    return squares.clamp(min=0), positive, ~same
