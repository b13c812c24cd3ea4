"""Where in the map a pooled descriptor comes from: the heat map behind a dot product (survey §4.2.1).

With x's contributions u, B×C×H×W and Σ_{h,w} u = pooled, a descriptor's dot product with any q is Σ_{h,w} Σ_c q_c u_c:
``einsum("bchw,bc->bhw", u, q)`` says which positions it came from. Weights that depend on x are taken as they are.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from resight.pooling.crow import channel_weights, spatial_weights
from resight.pooling.gem import gem
from resight.pooling.gram import gram_weights
from resight.pooling.heat_diffusion import heat_weights
from resight.pooling.rmac import region_cells
from resight.pooling.spoc import centre_prior
from resight.pooling.sum_pooling import check_map


def contributions(x: Tensor, pooling: str, **parameters: Any) -> Tensor:
    """B×C×H×W to B×D×H×W: each position's part of each entry of the pooled vector, B×D, which their sum equals.

    pooling: a name of ``LOCATABLE``. parameters: those of the pooling's function, such as p of GeM.
    Raises ValueError for another pooling or shape, TypeError for a parameter that the pooling does not have.
    """
    check_map(x)
    if pooling not in LOCATABLE:
        raise ValueError(f"contributions are known for {', '.join(LOCATABLE)}, not for {pooling!r}")
    return LOCATABLE[pooling](x, **parameters)


def weighted_places(x: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
    """Σ_t w_t Σ_c q_tc x_c: what positions give to the dot products of T weighted sums with as many directions.

    x: C×H×W. weights: T×H×W. directions: T×C. Returns H×W, without the T·C·H·W contributions.
    """
    return (directions @ x.flatten(1) * weights.flatten(1)).sum(dim=0).reshape(x.shape[1:])


def regional_contributions(
    x: Tensor,
    weights: Tensor,
    levels: int = 5,
    variant: Literal["paper", "cirtorch"] = "paper",
    whole: bool | None = None,
) -> Tensor:
    """``contributions`` of ``weighted_regions`` of R-MAC's regions, by weights of B×R."""
    return _regions(x, weights / weights.shape[1], levels, variant, whole)


def _sum(x: Tensor) -> Tensor:
    return x


def _average(x: Tensor) -> Tensor:
    return x / (x.shape[2] * x.shape[3])


def _mac(x: Tensor) -> Tensor:
    """The maximum, shared equally among the positions that reach it."""
    peak = x.amax(dim=(2, 3), keepdim=True)
    at = x == peak
    return at * (peak / at.sum(dim=(2, 3), keepdim=True))


def _gem(x: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """The pooled value, shared in proportion to x^p."""
    pooled = gem(x, p, eps)[:, :, None, None]
    x = x.clamp(min=eps)
    power = (x / x.amax(dim=(2, 3), keepdim=True)).pow(p)
    return pooled * power / power.sum(dim=(2, 3), keepdim=True)


def _spoc(x: Tensor) -> Tensor:
    return x * centre_prior(x.shape[2], x.shape[3]).to(x)


def _crow(x: Tensor, a: float = 2.0, b: float = 2.0) -> Tensor:
    return x * spatial_weights(x, a, b).unsqueeze(1) * channel_weights(x)[:, :, None, None]


def _r_mac(
    x: Tensor, levels: int = 3, variant: Literal["paper", "cirtorch"] = "paper", whole: bool | None = None
) -> Tensor:
    return _regions(x, x.new_ones(len(x), 1), levels, variant, whole)


def _regions(
    x: Tensor, weights: Tensor, levels: int, variant: Literal["paper", "cirtorch"], whole: bool | None
) -> Tensor:
    """Each region's maxima at their positions, divided by the norm of the region's vector, times its weight."""
    parts = torch.zeros_like(x)
    regions = region_cells(x.shape[2], x.shape[3], levels, variant, whole)
    for (x1, y1, x2, y2), weight in zip(regions, weights.expand(-1, len(regions)).T, strict=True):
        region = _mac(x[:, :, y1:y2, x1:x2])
        norm: Tensor = torch.linalg.vector_norm(region.sum(dim=(2, 3)), dim=1)
        parts[:, :, y1:y2, x1:x2] += region * (weight / norm.where(norm > 0, 1.0))[:, None, None, None]
    return parts


def _gram(x: Tensor) -> Tensor:
    return x * gram_weights(x)[:, :, None, None]


def _heat(x: Tensor, mean: Tensor | None = None, threshold: float = 0.1, ground: float = 0.1) -> Tensor:
    return x * heat_weights(x, mean, threshold, ground).unsqueeze(1)


LOCATABLE: dict[str, Callable[..., Tensor]] = {
    "sum": _sum,
    "average": _average,
    "mac": _mac,
    "gem": _gem,
    "spoc": _spoc,
    "crow": _crow,
    "r-mac": _r_mac,
    "gram": _gram,
    "heat": _heat,
}
