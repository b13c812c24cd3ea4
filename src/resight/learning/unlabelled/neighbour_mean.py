"""Targets without labels: the mean of a photo's nearest ones (Tzelepi & Tefas, Neurocomputing, 2018; survey §5.2.2)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.learning.losses.loss import Loss, Memory
from resight.learning.task import Tuples
from resight.search.rerank.neighbours import knn

_BLOCK = 4096  # photos whose neighbours are averaged at a time


def neighbour_means(x: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """N×D, the mean of the k others nearest to each of N×D ℓ2-normalised descriptors."""
    rows, _ = knn(x, k)
    made = np.empty_like(x)
    for start in range(0, len(x), _BLOCK):
        part = slice(start, start + _BLOCK)
        made[part] = x[rows[part]].mean(axis=1)
    return made


class TargetLoss(Loss):
    """The mean of ‖x − t‖² over a batch, t the target of each row, whose label is its row of ``targets``."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: NDArray[np.float32] | None = None

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        if self.targets is None:
            raise ValueError("targets are set before a batch is learned from")
        wanted = torch.from_numpy(self.targets[labels.cpu().numpy()]).to(x)
        return (x - wanted).square().sum(dim=1).mean()
