"""Quartet-net: the double margin, and a network that must not stray from the one it was (Cao et al., ACM MM 2016).

Two branches learn by pairs of images and two more, as they were, show what to mimic: survey §5.1.2b with [129]. The
paper also moves the margins while it trains, by a rule that its abstract does not give; here they stay.
"""

from torch import Tensor

from resight.learning.losses.loss import Loss, Memory, Reduction
from resight.learning.losses.siamese import DoubleMarginLoss
from resight.learning.task import Tuples


def mimic(x: Tensor, original: Tensor) -> Tensor:
    """Mean squared ℓ2 distance of descriptors, B×D, from those that the network as it was gave; a scalar."""
    return (x - original).square().sum(1).mean()


class QuartetLoss(Loss):
    """``DoubleMarginLoss`` + weight · ``mimic``. Raises ValueError unless 0 ≤ near ≤ far and weight is at least 0."""

    takes_tuples = True
    takes_memory = True
    takes_original = True

    def __init__(self, near: float = 0.2, far: float = 1.0, weight: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight must be at least 0, not {weight}")
        self.double_margin, self.weight = DoubleMarginLoss(near, far, reduction), weight

    def forward(
        self,
        x: Tensor,
        labels: Tensor,
        tuples: Tuples | None = None,
        memory: Memory | None = None,
        original: Tensor | None = None,
    ) -> Tensor:
        """As ``Loss.forward``. original: B×D, of the same images by the network as it was; needs no gradient.

        Raises ValueError also where original is missing, unless its weight is 0, or is not as x.
        """
        loss = super().forward(x, labels, tuples, memory)
        if self.weight == 0:
            return loss
        if original is None or original.shape != x.shape:
            given = "nothing" if original is None else original.shape
            raise ValueError(f"original must be descriptors of the network as it was, {tuple(x.shape)}, not {given}")
        return loss + self.weight * mimic(x.to(loss.dtype), original.to(loss.dtype))

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        return self.double_margin(x, labels, tuples, memory)  # type: ignore[no-any-return]
