"""NetVLAD: VLAD with a learned soft assignment (survey §4.2.1; Arandjelović et al., CVPR 2016, Eq. 2–4)."""

import math
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from resight.errors import RecipeError

_PREFIX = "pool."  # of these parameters in a pytorch-NetVlad checkpoint, kept in head.safetensors


class NetVlad(nn.Module):
    """V_k = Σ_i ā_k(x_i) (x_i − c_k) with ā = softmax(Wx + b); each V_k ℓ2-normalised, then all of them together.

    Takes B×C×H×W maps or B×N×C sets; gives B×K·C, cluster by cluster; zeros for no features.
    Called with weights too, B×1×H×W or B×N, those multiply the residuals, as CRN's mask does (Kim et al., CVPR 2017).
    normalise: ℓ2-normalise the features first, as the paper does and published weights expect.

    Parameters bear the names of pytorch-NetVlad (github.com/Nanne/pytorch-NetVlad, ``netvlad.py``): ``centroids``
    K×C, ``conv.weight`` K×C×1×1, and ``conv.bias`` (K,) where ``bias``, which is its ``vladv2``. They are left as
    torch leaves them, so use ``from_kmeans`` or ``from_state``.
    """

    def __init__(self, clusters: int, channels: int, *, bias: bool = True, normalise: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, clusters, kernel_size=1, bias=bias)
        self.centroids = nn.Parameter(torch.rand(clusters, channels))
        self.normalise = normalise

    @classmethod
    def from_kmeans(
        cls,
        centroids: NDArray[np.floating],
        features: NDArray[np.floating],
        *,
        bias: bool = True,
        normalise: bool = True,
        ratio: float = 0.01,
        alpha: float | None = None,
    ) -> Self:
        """Start as VLAD: the soft assignment prefers the nearest of K×C centroids.

        features: N×C of those that are clustered, to choose alpha by.
        bias: assign by −α‖x − c_k‖², so W = 2αc_k and b = −α‖c_k‖² (Eq. 3–4). Without: W = α c_k/‖c_k‖, as in the
            published networks, which is the same where all centroids are as long.
        alpha: by default such that the second choice weighs ``ratio`` times the first at the features' mean gap
            between them; the larger, the nearer to hard assignment. As in the authors' code and pytorch-NetVlad, but
            for two slips of the latter's ``vladv2``: it measures the gap from each centroid to features, and takes
            ‖c_k‖ for ‖c_k‖².
        Raises ValueError for shapes that do not fit, or if alpha cannot be chosen for want of two distinct centroids.
        """
        centres, x = (torch.as_tensor(np.asarray(a, np.float64)) for a in (centroids, features))
        if centres.ndim != 2 or x.ndim != 2 or x.shape[1] != centres.shape[1]:
            raise ValueError(f"centroids must be K×C and features N×C, not {tuple(centres.shape)}, {tuple(x.shape)}")
        x = normalize(x, dim=1) if normalise else x
        weight = 2 * centres if bias else normalize(centres, dim=1)
        offset = -centres.square().sum(dim=1) if bias else centres.new_zeros(len(centres))
        if alpha is None:
            alpha = -math.log(ratio) / mean_gap(linear(x, weight, offset))
        layer = cls(*centres.shape, bias=bias, normalise=normalise)
        with torch.no_grad():
            layer.centroids.copy_(centres)
            layer.conv.weight.copy_((alpha * weight)[:, :, None, None])
            if layer.conv.bias is not None:
                layer.conv.bias.copy_(alpha * offset)
        return layer

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], *, normalise: bool = True) -> Self:
        """With the parameters of a pytorch-NetVlad head, its names with or without ``pool.`` before them.

        Raises RecipeError where one is missing, unknown or does not fit.
        """
        named = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}
        if "centroids" not in named or named["centroids"].ndim != 2:
            raise RecipeError(f"a NetVLAD head needs `centroids`, K×C; these weights have {sorted(state) or 'nothing'}")
        layer = cls(*named["centroids"].shape, bias="conv.bias" in named, normalise=normalise)
        try:
            layer.load_state_dict(named)
        except RuntimeError as error:
            raise RecipeError(f"these weights are not a NetVLAD head: {error}") from error
        return layer

    @property
    def dimension(self) -> int:
        """K·C, the length of its vectors."""
        return self.centroids.numel()

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        x = columns(x)
        x = normalize(x, dim=2) if self.normalise else x
        assignment = linear(x, self.conv.weight.flatten(1), self.conv.bias).softmax(dim=2)
        assignment = weighted(assignment, weights)
        # Σ ā_k (x − c_k) = Σ ā_k x − (Σ ā_k) c_k, which needs no B×N×K×C residuals.
        residual = assignment.mT @ x - assignment.sum(dim=1)[:, :, None] * self.centroids
        return normalize(normalize(residual, dim=2).flatten(1), dim=1)


def columns(x: Tensor) -> Tensor:
    """Maps B×C×H×W to the sets of their columns, B×H·W×C; sets B×N×C as they are. Raises ValueError for others."""
    if x.ndim == 4:
        return x.flatten(2).mT
    if x.ndim != 3:
        raise ValueError(f"x must be B×C×H×W or B×N×C, not {tuple(x.shape)}")
    return x


def weighted(per_feature: Tensor, weights: Tensor | None) -> Tensor:
    """B×N×K times weights of B×N or of B×1×H×W, N = H·W; as it is without. Raises ValueError where they do not fit."""
    if weights is None:
        return per_feature
    flat = weights.flatten(1)
    if flat.shape != per_feature.shape[:2]:
        fits = tuple(per_feature.shape[:2])
        raise ValueError(f"weights must be B×N or B×1×H×W for B×N = {fits}, not {tuple(weights.shape)}")
    return per_feature * flat[:, :, None]


def mean_gap(scores: Tensor) -> float:
    """N×K scores to the mean of the largest less the second. Raises ValueError where that is not above 0."""
    if len(scores) == 0 or scores.shape[1] < 2:
        raise ValueError(f"a gap needs a feature and two centroids, not scores of shape {tuple(scores.shape)}")
    best = scores.topk(2, dim=1).values
    gap = float((best[:, 0] - best[:, 1]).mean())
    if not gap > 0:
        raise ValueError("every feature is as near to a second centroid: give distinct centroids")
    return gap
