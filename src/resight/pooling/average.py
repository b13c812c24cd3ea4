"""Average pooling, the uniform SPoC (survey §4.2.1; Babenko & Lempitsky, ICCV 2015, without the centring prior)."""

from torch import Tensor


def average(x: Tensor) -> Tensor:
    """B×C×H×W to B×C: each channel's mean over positions."""
    return x.mean(dim=(2, 3))
