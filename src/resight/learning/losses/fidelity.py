"""A loss beside which the network must not stray from the one it was."""

from torch import Tensor

from resight.learning.losses.loss import Loss, Memory
from resight.learning.task import Tuples


class FidelityLoss(Loss):
    """A loss of tuples + weight · the mean squared ℓ2 distance of descriptors from those of the network as it was.

    Raises ValueError where the weight is below 0.
    """

    takes_tuples = True
    takes_original = True

    def __init__(self, similarity: Loss, weight: float) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight must be at least 0, not {weight}")
        self.similarity, self.weight = similarity, weight

    def forward(
        self,
        x: Tensor,
        labels: Tensor,
        tuples: Tuples | None = None,
        memory: Memory | None = None,
        original: Tensor | None = None,
    ) -> Tensor:
        """As ``Loss.forward``. original: B×D, of the same pictures by the network as it was; needs no gradient.

        Raises ValueError also where original is missing, unless its weight is 0, or is not as x.
        """
        loss = super().forward(x, labels, tuples, memory)
        if self.weight == 0:
            return loss
        if original is None or original.shape != x.shape:
            given = "nothing" if original is None else original.shape
            raise ValueError(f"original must be descriptors of the network as it was, {tuple(x.shape)}, not {given}")
        return loss + self.weight * (x.to(loss.dtype) - original.to(loss.dtype)).square().sum(1).mean()

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        found: Tensor = self.similarity(x, labels, tuples, memory)
        return found
