"""Listwise losses, 1 − mean average precision made smooth (survey Eq. 17): by soft bins, or by soft ranks.

Each image of a batch is a query that ranks all others, of the memory too where there is one. Queries without a
positive do not count.
"""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from resight.learning.losses.loss import Loss, Memory
from resight.learning.task import Tuples


def quantised_ap(
    scores: Tensor, relevant: Tensor, ranked: Tensor, bins: int = 20, low: float = -1.0, high: float = 1.0
) -> Tensor:
    """AP_Q of each query, (Q,), from histograms of its scores (Revaud et al., ICCV 2019, §3).

    A score counts in the two bins nearest to it, by a triangular kernel, bins from high to low; one beyond either end
    counts in the bin there, as in the authors' code, which has low 0; the paper's is −1. As scores in the middle of
    bins do, those in one bin tie. scores: Q×N. relevant: Q×N booleans. ranked: Q×N, which are in the query's list.
    Memory is taken for Q·N numbers, not for as many a bin: the gradient computes each bin again.
    """
    width = (high - low) / (bins - 1)
    place = ((high - scores) / width).clamp(0, bins - 1)  # 0 the first bin

    def histograms(place: Tensor, centre: int) -> tuple[Tensor, Tensor]:
        weight = (1 - (place - centre).abs()).clamp(min=0) * ranked
        return weight.sum(1), (weight * relevant).sum(1)

    found = [checkpoint(histograms, place, m, use_reentrant=False, preserve_rng_state=False) for m in range(bins)]
    count, hit = (torch.stack(side, 1) for side in zip(*found, strict=True))
    precision = hit.cumsum(1) / count.cumsum(1).clamp(min=torch.finfo(scores.dtype).tiny)
    return (precision * hit).sum(1) / (relevant & ranked).sum(1).clamp(min=1)


def smooth_ap(scores: Tensor, relevant: Tensor, ranked: Tensor, temperature: float = 0.01) -> Tensor:
    """AP of each query, (Q,), with 1/(1 + exp(−s/τ)) for the step by which ranks count (Brown et al., ECCV 2020, §4).

    scores: Q×N. relevant, ranked: as of ``quantised_ap``. Takes memory for P·N numbers, P the pairs of a query and a
    positive; classes may be of any sizes.
    """
    q, p = torch.where(relevant & ranked)
    ahead = torch.sigmoid((scores[q] - scores[q, p][:, None]) / temperature)
    itself = torch.arange(scores.shape[1], device=scores.device) == p[:, None]
    ahead = ahead * (ranked[q] & ~itself)
    among_positives, among_all = 1 + (ahead * relevant[q]).sum(1), 1 + ahead.sum(1)
    total = scores.new_zeros(len(scores)).index_add(0, q, among_positives / among_all)
    return total / (relevant & ranked).sum(1).clamp(min=1)


class _ListwiseLoss(Loss):
    """query_counts: whether a query ranks itself too, among its positives, as in the authors' code of both losses."""

    takes_memory = True

    def __init__(self, query_counts: bool = False) -> None:
        super().__init__()
        self.query_counts = query_counts

    @abstractmethod
    def _ap(self, scores: Tensor, relevant: Tensor, ranked: Tensor) -> Tensor: ...

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        all_labels, gallery = labels, x
        if memory is not None:
            gallery, all_labels = torch.cat([x, memory[0]]), torch.cat([labels, memory[1]])
        scores = normalize(x) @ normalize(gallery).T
        ranked = torch.ones_like(scores, dtype=torch.bool)
        if not self.query_counts:
            ranked.fill_diagonal_(False)
        relevant = labels[:, None] == all_labels[None]
        asked = torch.where((relevant & ranked).any(1))[0]
        if len(asked) == 0:
            return x.sum() * 0
        return 1 - self._ap(scores[asked], relevant[asked], ranked[asked]).mean()


class ListwiseApLoss(_ListwiseLoss):
    """1 − the mean ``quantised_ap`` of cosines. Raises ValueError unless bins ≥ 2 and low < high."""

    def __init__(self, bins: int = 20, low: float = -1.0, high: float = 1.0, *, query_counts: bool = False) -> None:
        super().__init__(query_counts)
        if bins < 2 or not low < high:
            raise ValueError(f"bins must be 2 or more from low to a greater high, not {bins}, {low} and {high}")
        self.bins, self.low, self.high = bins, low, high

    def _ap(self, scores: Tensor, relevant: Tensor, ranked: Tensor) -> Tensor:
        return quantised_ap(scores, relevant, ranked, self.bins, self.low, self.high)


class SmoothApLoss(_ListwiseLoss):
    """1 − the mean ``smooth_ap`` of cosines. Raises ValueError unless the temperature is above 0."""

    def __init__(self, temperature: float = 0.01, *, query_counts: bool = False) -> None:
        super().__init__(query_counts)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.temperature = temperature

    def _ap(self, scores: Tensor, relevant: Tensor, ranked: Tensor) -> Tensor:
        return smooth_ap(scores, relevant, ranked, self.temperature)
