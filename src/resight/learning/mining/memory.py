"""Cross-batch memory: descriptors of earlier batches, which drift slowly enough to be compared with (Wang et al., CVPR
2020).
"""

import torch
from torch import Tensor, nn


class CrossBatchMemory(nn.Module):
    """The last ``size`` descriptors and their labels. All of it is in buffers, so a checkpoint keeps it.

    warm: steps before it is used, as descriptors drift fast at first. Raises ValueError for sizes out of range.
    """

    x: Tensor
    labels: Tensor
    seen: Tensor
    steps: Tensor

    def __init__(self, size: int, dimensions: int, *, warm: int = 0) -> None:
        super().__init__()
        if size < 1 or dimensions < 1 or warm < 0:
            raise ValueError(f"size and dimensions must be at least 1, warm 0, not {size}, {dimensions} and {warm}")
        self.size, self.warm = size, warm
        self.register_buffer("x", torch.zeros(size, dimensions))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, x: Tensor, labels: Tensor) -> None:
        """Put a step's B×D descriptors in the place of the oldest; of more than fit, the last.

        Call it after the loss: what ``contents`` gives is compared with the batch, and should not be the batch.
        """
        seen = int(self.seen)
        kept = min(len(x), self.size)
        places = torch.arange(seen + len(x) - kept, seen + len(x), device=self.x.device) % self.size
        self.x[places] = x[len(x) - kept :].detach().to(self.x)
        self.labels[places] = labels[len(x) - kept :].to(self.labels)
        self.seen += len(x)
        self.steps += 1

    def contents(self) -> tuple[Tensor, Tensor] | None:
        """M×D descriptors and (M,) labels, copies, in no order; None while it warms up or is empty."""
        filled = min(int(self.seen), self.size)
        if int(self.steps) < self.warm or not filled:
            return None
        return self.x[:filled].clone(), self.labels[:filled].clone()
