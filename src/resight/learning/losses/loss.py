"""What every loss is: a module of descriptors and labels, and what it does with chosen tuples and with memory."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from resight.learning.task import Tuples

Memory = tuple[Tensor, Tensor]
"""Descriptors of earlier batches, M×D and without gradient, and their labels, (M,) int64 (cross-batch memory, Wang et
al., CVPR 2020)."""

Reduction = Literal["mean", "sum", "active"]
"""Of a loss's tuples; "active" is the mean of those above 0."""


class Loss(nn.Module, ABC):
    """A loss of a batch.

    takes_tuples: whether it is of pairs or triplets, which may be chosen; a loss of the whole batch is not.
    takes_memory: whether earlier batches can stand beside this one. freezes_backbone: whether only the loss's own
        parameters learn. takes_original: whether it is also of the descriptors of the network as it was.
    """

    takes_tuples: ClassVar[bool] = False
    takes_memory: ClassVar[bool] = False
    freezes_backbone: ClassVar[bool] = False
    takes_original: ClassVar[bool] = False

    def forward(self, x: Tensor, labels: Tensor, tuples: Tuples | None = None, memory: Memory | None = None) -> Tensor:
        """A scalar, 0 with a graph where a batch has nothing that the loss is of.

        x: B×D. labels: (B,) int64. tuples: rows of x, all that the labels imply where None; with memory, positives
        and negatives are rows of it. Computed in float32 also where autocast is on, in float64 where x is.
        Raises ValueError for shapes that do not fit, and for tuples or memory that it does not take.
        """
        x, memory = self._checked(x, labels, tuples, memory)
        with torch.autocast(x.device.type, enabled=False):
            return self._loss(x, labels, tuples, memory)

    @abstractmethod
    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        """``forward`` of what was checked, x and memory of one dtype, float32 or float64."""

    def _checked(
        self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None
    ) -> tuple[Tensor, Memory | None]:
        name = type(self).__name__
        if x.ndim != 2 or labels.shape != x.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(f"x must be B×D and labels (B,) int64, not {x.shape} and {labels.shape} {labels.dtype}")
        if tuples is not None and not self.takes_tuples:
            raise ValueError(f"{name} is of the whole batch and takes no tuples")
        if tuples is not None and len(tuples) not in (3, 4):
            raise ValueError(f"tuples are triplets (a, p, n) or pairs (a, p, a, n), not {len(tuples)} tensors")
        if memory is not None and not self.takes_memory:
            raise ValueError(f"{name} takes no memory")
        x = x if x.dtype == torch.float64 else x.float()
        if memory is None:
            return x, None
        kept, kept_labels = memory
        if kept.ndim != 2 or kept.shape[1] != x.shape[1] or kept_labels.shape != kept.shape[:1]:
            raise ValueError(f"memory must be M×{x.shape[1]} and (M,), not {kept.shape} and {kept_labels.shape}")
        return x, (kept.to(x.dtype), kept_labels)


def others(x: Tensor, labels: Tensor, memory: Memory | None) -> Memory:
    """What anchors are compared with: the memory, or else the batch itself."""
    return (x, labels) if memory is None else memory


def reduced(values: Tensor, how: Reduction) -> Tensor:
    """(T,) values, none below 0, to a scalar; 0 with a graph where there are none."""
    if how == "sum":
        return values.sum()
    count = values.numel() if how == "mean" else int((values > 0).sum())
    return values.sum() / max(count, 1)
