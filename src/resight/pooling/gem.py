"""GeM: generalised-mean pooling (survey §4.2.1; Radenović, Tolias & Chum, TPAMI 2019, Eq. 3)."""

import torch
from torch import Tensor, nn


def gem(x: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """(mean over H, W of max(x, eps)^p)^(1/p): the mean at p = 1, towards the maximum as p grows.

    x: B×C×H×W, H and W at least 1. p: above 0; a number, or a tensor that broadcasts with B×C×1×1.
    Returns B×C. Raises ValueError where these do not fit.
    """
    if x.ndim != 4 or 0 in x.shape[2:]:
        raise ValueError(f"x must be B×C×H×W with H and W at least 1, not {tuple(x.shape)}")
    if not isinstance(p, Tensor) and p <= 0:
        raise ValueError(f"p must be above 0, not {p}")
    x = x.clamp(min=eps)
    # x^p leaves float32's range for large p; the ratio to the channel's maximum, at most 1, does not.
    peak = x.amax(dim=(2, 3), keepdim=True).detach()
    return (peak * (x / peak).pow(p).mean(dim=(2, 3), keepdim=True).pow(1.0 / p)).flatten(1)


class GeM(nn.Module):
    """``gem`` with p learned; B×C×H×W to B×C.

    p: where learning starts, above 0. channels: C, to learn one p a channel, a parameter of 1×C×1×1; by default one
        p for all, a parameter of no dimension. Raises ValueError for another p or fewer than one channel.
    """

    def __init__(self, p: float = 3.0, channels: int | None = None, eps: float = 1e-6) -> None:
        super().__init__()
        if p <= 0 or (channels is not None and channels < 1):
            raise ValueError(f"p must be above 0 and channels at least 1, not {p} and {channels}")
        self.p = nn.Parameter(torch.full(() if channels is None else (1, channels, 1, 1), float(p)))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return gem(x, self.p, self.eps)
