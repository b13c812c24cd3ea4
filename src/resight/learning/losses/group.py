"""Group-group loss: each class of the batch as one, near its own and away from the others (survey §5.1.3, [4])."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from resight.learning.losses.loss import Loss, Memory
from resight.learning.task import Tuples


def group_group(x: Tensor, labels: Tensor, threshold: float = 0.4) -> Tensor:
    """Mean ‖x − c‖² of descriptors from their group's centre, plus the mean over pairs of groups of cᵢᵀcⱼ.

    Centres are the normalised means of normalised descriptors; a pair of groups at or below the threshold counts 0. So
    it is in the authors' code (Liu et al., TIP 2020; github.com/liu-xb/GGL), for groups of one size; here of any, where
    each descriptor counts as much as any other. x: B×D. labels: (B,).
    """
    x = normalize(x)
    classes, group = torch.unique(labels, return_inverse=True)
    sums = x.new_zeros(len(classes), x.shape[1]).index_add(0, group, x)
    centres = normalize(sums)  # as of the means
    within = (2 - 2 * (x * centres[group]).sum(1)).sum() / max(len(x), 1)
    i, j = torch.triu_indices(len(classes), len(classes), offset=1, device=x.device)
    cosine = (centres @ centres.T)[i, j]
    between = torch.where(cosine > threshold, cosine, 0).sum() / max(len(i), 1)
    return within + between


class GroupGroupLoss(Loss):
    """``group_group``, of the whole batch. Raises ValueError unless the threshold lies within [−1, 1]."""

    def __init__(self, threshold: float = 0.4) -> None:
        super().__init__()
        if not -1 <= threshold <= 1:
            raise ValueError(f"threshold is a cosine, from -1 to 1, not {threshold}")
        self.threshold = threshold

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        return group_group(x, labels, self.threshold)
