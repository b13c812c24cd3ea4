"""Triplet loss (survey Eq. 15), joined with cross-entropy (Eq. 16), and with a second negative (quadruplets)."""

import torch
from torch import Tensor

from resight.learning.losses.classification import CrossEntropyLoss
from resight.learning.losses.loss import Loss, Memory, Reduction, reduced
from resight.learning.losses.tuples import squared_distances, triplets
from resight.learning.task import Tuples


class TripletLoss(Loss):
    """max(0, m + D(a, p) − D(a, n)) of triplets, D the squared ℓ2 distance (Eq. 15 with Eq. 11).

    m = 0.1 is Deep Image Retrieval's (Gordo et al., IJCV 2017), which has ½ before it. ValueError unless m is above 0.
    """

    takes_tuples = True
    takes_memory = True

    def __init__(self, margin: float = 0.1, reduction: Reduction = "mean") -> None:
        super().__init__()
        if not margin > 0:
            raise ValueError(f"margin must be above 0, not {margin}")
        self.margin, self.reduction = margin, reduction

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        a, p, n = triplets(labels, tuples, memory)
        squares = squared_distances(x, labels, memory)
        return reduced((self.margin + squares[a, p] - squares[a, n]).clamp(min=0), self.reduction)


class JointLoss(Loss):
    """α · triplet + β · cross-entropy (Eq. 16), the latter of the whole batch. ValueError for weights below 0."""

    takes_tuples = True
    takes_memory = True

    def __init__(
        self, triplet: TripletLoss, classifier: CrossEntropyLoss, alpha: float = 1.0, beta: float = 1.0
    ) -> None:
        super().__init__()
        if not min(alpha, beta) >= 0:
            raise ValueError(f"alpha and beta must be at least 0, not {alpha} and {beta}")
        self.triplet, self.classifier, self.alpha, self.beta = triplet, classifier, alpha, beta

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        loss: Tensor = self.alpha * self.triplet(x, labels, tuples, memory)
        return loss + self.beta * self.classifier(x, labels)  # type: ignore[no-any-return]


class QuadrupletLoss(Loss):
    """max(0, m₁ + D(a, p) − D(a, n)) + max(0, m₂ + D(a, p) − D(n′, n)), with a, n and n′ of three classes.

    Chen et al., "Beyond triplet loss", CVPR 2017, §3.2, with the squared ℓ2 distance for their learned one. Each
    triplet is completed by every n′ of the batch, T·B terms; each of the two sums is reduced on its own.
    Raises ValueError unless both margins are above 0.
    """

    takes_tuples = True

    def __init__(self, margin: float = 1.0, second: float = 0.5, reduction: Reduction = "mean") -> None:
        super().__init__()
        if not min(margin, second) > 0:
            raise ValueError(f"margins must be above 0, not {margin} and {second}")
        self.margin, self.second, self.reduction = margin, second, reduction

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        a, p, n = triplets(labels, tuples)
        squares = squared_distances(x, labels)
        first = (self.margin + squares[a, p] - squares[a, n]).clamp(min=0)
        third = (labels != labels[a, None]) & (labels != labels[n, None])  # T×B
        t, other = torch.where(third)
        second = (self.second + squares[a[t], p[t]] - squares[other, n[t]]).clamp(min=0)
        return reduced(first, self.reduction) + reduced(second, self.reduction)
