"""Regression to a learned similarity that says more than the cosine does (survey Eq. 12; Garcia & Vogiatzis, IVC 2019).

Only the similarity network learns; ``resight.search.rerank.nonmetric`` has it, and ranks by it.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from resight.learning.losses.loss import Loss, Memory, Reduction, others, reduced
from resight.learning.losses.tuples import pairs
from resight.learning.task import Tuples
from resight.search.rerank.nonmetric import SimilarityNetwork


def nonmetric(similarity: Tensor, cosine: Tensor, match: Tensor, margin: float) -> Tensor:
    """|S_W − S(sim + m) − (1 − S)(sim − m)| of each pair, (P,) (Eq. 12).

    similarity: S_W, (P,). cosine: sim, (P,). match: S, (P,), 1 of a pair that shows one thing: the equation wants a
    matching pair's similarity raised, where the survey's text has 0 for it. A margin of 0 teaches the cosine itself.
    """
    return (similarity - torch.where(match.bool(), cosine + margin, cosine - margin)).abs()


class NonMetricLoss(Loss):
    """``nonmetric`` of pairs, by a network that learns; x gets no gradient. Raises ValueError for a margin below 0."""

    takes_tuples = True
    takes_memory = True
    freezes_backbone = True

    def __init__(self, network: SimilarityNetwork, margin: float = 0.2, reduction: Reduction = "mean") -> None:
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"margin must be at least 0, not {margin}")
        self.network, self.margin, self.reduction = network, margin, reduction

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        a, p, b, n = pairs(labels, tuples, memory)
        anchor, other = torch.cat([a, b]), torch.cat([p, n])
        x, y = x.detach(), others(x, labels, memory)[0].detach()
        match = torch.arange(len(anchor), device=x.device) < len(a)
        cosine = (normalize(x) @ normalize(y).T)[anchor, other]
        similarity = self.network.of_rows(x, y, anchor, other)
        return reduced(nonmetric(similarity, cosine, match, self.margin), self.reduction)
