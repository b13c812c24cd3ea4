"""Siamese losses of pairs: one margin (contrastive), or two (survey Eq. 11, 13 and 14)."""

from typing import Literal

import torch
from torch import Tensor

from resight.learning.losses.loss import Loss, Memory, Reduction, reduced
from resight.learning.losses.tuples import pairs, squared_distances
from resight.learning.task import Tuples

Form = Literal["survey", "cirtorch"]

_TINY = 1e-12  # keeps the root's derivative finite where both of a pair are the same


def siamese(positive: Tensor, negative: Tensor, margin: float, form: Form = "survey") -> Tensor:
    """The loss of each pair, (P + N,), positives first.

    positive, negative: their squared ℓ2 distances, (P,) and (N,).
    form: "survey", ½D and ½max(0, m − D) of the squared distance D (Eq. 13 with Eq. 11); "cirtorch", ½D² and
        ½max(0, m − D)² of the distance D, as Radenović et al. train GeM (TPAMI 2019;
        cirtorch's ``contrastive_loss``, which sums, and adds 1e-6 to each difference of coordinates).
    """
    if form == "survey":
        return 0.5 * torch.cat([positive, (margin - negative).clamp(min=0)])
    return 0.5 * torch.cat([positive, (margin - (negative + _TINY).sqrt()).clamp(min=0).square()])


def double_margin(positive: Tensor, negative: Tensor, near: float, far: float) -> Tensor:
    """½max(0, D − m₁) and ½max(0, m₂ − D) of each pair, (P + N,), D its squared ℓ2 distance (Eq. 14 with Eq. 11)."""
    return 0.5 * torch.cat([(positive - near).clamp(min=0), (far - negative).clamp(min=0)])


class _PairLoss(Loss):
    takes_tuples = True
    takes_memory = True

    def _distances(
        self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor]:
        a, p, b, n = pairs(labels, tuples, memory)
        squares = squared_distances(x, labels, memory)
        return squares[a, p], squares[b, n]


class SiameseLoss(_PairLoss):
    """``siamese`` of pairs. Raises ValueError unless the margin is above 0."""

    def __init__(self, margin: float = 0.7, form: Form = "survey", reduction: Reduction = "mean") -> None:
        super().__init__()
        if not margin > 0:
            raise ValueError(f"margin must be above 0, not {margin}")
        self.margin, self.form, self.reduction = margin, form, reduction

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        positive, negative = self._distances(x, labels, tuples, memory)
        return reduced(siamese(positive, negative, self.margin, self.form), self.reduction)


class DoubleMarginLoss(_PairLoss):
    """``double_margin`` of pairs. Raises ValueError unless 0 ≤ near ≤ far."""

    def __init__(self, near: float = 0.2, far: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        if not 0 <= near <= far:
            raise ValueError(f"margins must be 0 ≤ near ≤ far, not {near} and {far}")
        self.near, self.far, self.reduction = near, far, reduction

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        positive, negative = self._distances(x, labels, tuples, memory)
        return reduced(double_margin(positive, negative, self.near, self.far), self.reduction)
