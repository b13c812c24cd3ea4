"""SOLAR's loss: triplets, and a second-order similarity between their images (Ng et al., ECCV 2020, §3.3)."""

import torch
from torch import Tensor
from torch.linalg import vector_norm

from resight.learning.losses.loss import Loss, Memory
from resight.learning.losses.tuples import squared_distances, triplets
from resight.learning.task import Tuples


class SolarLoss(Loss):
    """(Σ max(0, m + D(a, p) − D(a, n)) + λ (Σ (D(a, n) − D(p, n))²)^½) / Q over triplets, D the squared ℓ2 distance.

    Q: the pairs (a, p), which in SOLAR's batches are its queries (github.com/tonyngjichun/SOLAR, ``triplet_loss`` and
    ``sos_loss``). Defaults are those that it was trained with. ValueError unless m is above 0 and λ not below.
    """

    takes_tuples = True

    def __init__(self, margin: float = 1.25, weight: float = 10.0) -> None:
        super().__init__()
        if not (margin > 0 and weight >= 0):
            raise ValueError(f"margin must be above 0 and weight at least 0, not {margin} and {weight}")
        self.margin, self.weight = margin, weight

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        a, p, n = triplets(labels, tuples)
        squares = squared_distances(x, labels)
        triplet = (self.margin + squares[a, p] - squares[a, n]).clamp(min=0).sum()
        second_order = vector_norm(squares[a, n] - squares[p, n])
        queries = len(torch.unique(torch.stack([a, p]), dim=1).T)
        loss: Tensor = (triplet + self.weight * second_order) / max(queries, 1)
        return loss
