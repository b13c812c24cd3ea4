"""Losses of a linear classifier over the descriptors: cross-entropy (survey Eq. 10), and two with margins.

pytorch-metric-learning's ArcFaceLoss has no derivative, NaN, where a descriptor lies along its class, and both of its
losses convert the classifier to the descriptors' precision for good; so that these are written out.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize

from resight.learning.losses.loss import Loss, Memory
from resight.learning.task import Tuples


def arcface(cosine: Tensor, labels: Tensor, margin: float = 0.5) -> Tensor:
    """cos θ, but cos(θ + m) at each row's label (Deng et al., CVPR 2019, Eq. 3), B×C.

    margin: m in radians. Beyond θ = π − m, where cos(θ + m) would rise again, cos θ − m·sin m, as in the authors' code.
    """
    rows = torch.arange(len(labels), device=labels.device)
    own = cosine[rows, labels].clamp(-1, 1)
    sine = (1 - own.square()).clamp(min=torch.finfo(own.dtype).eps).sqrt()
    turned = own * math.cos(margin) - sine * math.sin(margin)
    kept = own >= math.cos(math.pi - margin)
    return cosine.index_put((rows, labels), torch.where(kept, turned, own - margin * math.sin(margin)))


def cosface(cosine: Tensor, labels: Tensor, margin: float = 0.35) -> Tensor:
    """cos θ, less m at each row's label (Wang et al., CVPR 2018, Eq. 4), B×C."""
    rows = torch.arange(len(labels), device=labels.device)
    return cosine.index_put((rows, labels), cosine[rows, labels] - margin)


class _ClassifierLoss(Loss):
    """weight: C×D, drawn from N(0, 1/D) by the seed alone. Raises ValueError for sizes below 1."""

    def __init__(self, dimensions: int, classes: int, seed: int) -> None:
        super().__init__()
        if dimensions < 1 or classes < 1:
            raise ValueError(f"a classifier needs dimensions and classes, not {dimensions} and {classes}")
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, dimensions, generator=generator) / math.sqrt(dimensions))

    def _checked_labels(self, labels: Tensor) -> Tensor:
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.weight):
            raise ValueError(f"labels must be classes from 0 to {len(self.weight) - 1}")
        return labels

    def _cosine(self, x: Tensor) -> Tensor:
        return linear(normalize(x), normalize(self.weight.to(x.dtype)))


class CrossEntropyLoss(_ClassifierLoss):
    """Mean −log p̂ of each row's own class, p̂ the softmax of linear logits (Eq. 10).

    normalised: logits are cosines (NormFace, Wang et al., ACM MM 2017). temperature: logits are divided by it; cosines
    need one well below 1. bias: whether each class has an offset, 0 at first, added last. ValueError for a temperature
    not above 0.
    """

    def __init__(
        self,
        dimensions: int,
        classes: int,
        seed: int,
        *,
        normalised: bool = False,
        temperature: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__(dimensions, classes, seed)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.normalised, self.temperature = normalised, temperature
        self.bias = nn.Parameter(torch.zeros(classes)) if bias else None

    def logits(self, x: Tensor) -> Tensor:
        """B×C of B×D."""
        logits = (self._cosine(x) if self.normalised else linear(x, self.weight.to(x.dtype))) / self.temperature
        return logits if self.bias is None else logits + self.bias.to(x.dtype)

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        return _mean_cross_entropy(self.logits(x), self._checked_labels(labels))


class ArcFaceLoss(_ClassifierLoss):
    """Cross-entropy of scale · ``arcface``. margin: in radians. ValueError unless 0 ≤ margin < π and scale > 0."""

    def __init__(self, dimensions: int, classes: int, seed: int, *, margin: float = 0.5, scale: float = 64.0) -> None:
        super().__init__(dimensions, classes, seed)
        if not (0 <= margin < math.pi and scale > 0):
            raise ValueError(f"margin is radians from 0 to below π and scale above 0, not {margin} and {scale}")
        self.margin, self.scale = margin, scale

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        cosine = arcface(self._cosine(x), self._checked_labels(labels), self.margin)
        return _mean_cross_entropy(self.scale * cosine, labels)


class CosFaceLoss(_ClassifierLoss):
    """Cross-entropy of scale · ``cosface``. Raises ValueError unless margin ≥ 0 and scale > 0."""

    def __init__(self, dimensions: int, classes: int, seed: int, *, margin: float = 0.35, scale: float = 64.0) -> None:
        super().__init__(dimensions, classes, seed)
        if not (margin >= 0 and scale > 0):
            raise ValueError(f"margin must be at least 0 and scale above 0, not {margin} and {scale}")
        self.margin, self.scale = margin, scale

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        cosine = cosface(self._cosine(x), self._checked_labels(labels), self.margin)
        return _mean_cross_entropy(self.scale * cosine, labels)


def _mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
