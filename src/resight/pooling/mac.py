"""MAC: maximum activations of convolutions (survey §4.2.1; Razavian et al. 2014; Tolias, Sicre & Jégou 2016)."""

from torch import Tensor


def mac(x: Tensor) -> Tensor:
    """B×C×H×W to B×C: each channel's maximum over positions."""
    return x.amax(dim=(2, 3))
