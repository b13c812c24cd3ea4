"""IRT's loss for transformers: contrastive on cosines, with the entropy of descriptors kept up (El-Nouby et al.,
"Training Vision Transformers for Image Retrieval", 2021; survey [80]).
"""

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from resight.learning.losses.loss import Loss, Memory, others
from resight.learning.losses.tuples import pairs
from resight.learning.task import Tuples

_TINY = 1e-8  # the logarithm of a distance of 0, of a picture that is in the batch twice, must be finite


def koleo(x: Tensor) -> Tensor:
    """−1/N Σ log ρ, ρ each descriptor's distance to the nearest other: Kozachenko and Leonenko's estimate of their
    differential entropy, but for sign and constants (Sablayrolles et al., ICLR 2019). 0 for fewer than two.

    x: N×D, ℓ2-normalised. Which is the nearest does not depend on the gradient.
    """
    if len(x) < 2:
        return x.sum() * 0
    with torch.no_grad():
        nearest = (x @ x.T).fill_diagonal_(-torch.inf).argmax(1)
    distance: Tensor = vector_norm(x - x[nearest], dim=1)
    return -(distance + _TINY).log().mean()


class EntropySiameseLoss(Loss):
    """1/N Σᵢ (Σ of positives (1 − zᵢᵀzⱼ) + Σ of negatives max(0, zᵢᵀzⱼ − β)) + λ · ``koleo``, z the descriptors
    normalised, N the batch's; entropy is of the batch alone.

    margin: β. weight: λ, by default as github.com/jhgan00/image-retrieval-transformers has it for CUB.
    Raises ValueError unless −1 ≤ β < 1 and λ ≥ 0.
    """

    takes_tuples = True
    takes_memory = True

    def __init__(self, margin: float = 0.5, weight: float = 0.7) -> None:
        super().__init__()
        if not (-1 <= margin < 1 and weight >= 0):
            raise ValueError(f"margin is a cosine below 1 and weight at least 0, not {margin} and {weight}")
        self.margin, self.weight = margin, weight

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        z = normalize(x)
        cosine = z @ normalize(others(x, labels, memory)[0]).T
        a, p, b, n = pairs(labels, tuples, memory)
        contrastive = (1 - cosine[a, p]).sum() + (cosine[b, n] - self.margin).clamp(min=0).sum()
        return contrastive / max(len(x), 1) + self.weight * koleo(z)
