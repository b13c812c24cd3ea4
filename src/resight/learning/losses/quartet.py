"""Quartet-net: the double margin, and a network that must not stray from the one it was (Cao et al., ACM MM 2016).

Two branches learn by pairs of images and two more, as they were, show what to mimic: survey §5.1.2b with [129]. The
paper also moves the margins while it trains, by a rule that its abstract does not give; here they stay.
"""

from resight.learning.losses.fidelity import FidelityLoss
from resight.learning.losses.loss import Reduction
from resight.learning.losses.siamese import DoubleMarginLoss


class QuartetLoss(FidelityLoss):
    """``FidelityLoss`` beside ``DoubleMarginLoss``. Raises ValueError unless 0 ≤ near ≤ far and weight ≥ 0."""

    def __init__(self, near: float = 0.2, far: float = 1.0, weight: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(DoubleMarginLoss(near, far, reduction), weight)
