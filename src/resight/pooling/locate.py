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
from resight.pooling.rmac import region_cells
from resight.pooling.spoc import centre_prior
from resight.pooling.sum_pooling import check_map


def contributions(x: Tensor, pooling: str, **parameters: Any) -> Tensor:
    """B×C×H×W to B×C×H×W: each position's part of each channel's pooled value, which their sum equals.

    pooling: a name of ``LOCATABLE``. parameters: those of the pooling's function, such as p of GeM.
    Raises ValueError for another pooling or shape, TypeError for a parameter that the pooling does not have.
    """
    check_map(x)
    if pooling not in LOCATABLE:
        raise ValueError(f"contributions are known for {', '.join(LOCATABLE)}, not for {pooling!r}")
    return LOCATABLE[pooling](x, **parameters)


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
    """Each region's maxima at their positions, divided by the norm of the region's vector."""
    parts = torch.zeros_like(x)
    for x1, y1, x2, y2 in region_cells(x.shape[2], x.shape[3], levels, variant, whole):
        region = _mac(x[:, :, y1:y2, x1:x2])
        norm: Tensor = torch.linalg.vector_norm(region.sum(dim=(2, 3)), dim=1)
        parts[:, :, y1:y2, x1:x2] += region / norm.where(norm > 0, 1.0)[:, None, None, None]
    return parts


LOCATABLE: dict[str, Callable[..., Tensor]] = {
    "sum": _sum,
    "average": _average,
    "mac": _mac,
    "gem": _gem,
    "spoc": _spoc,
    "crow": _crow,
    "r-mac": _r_mac,
}
