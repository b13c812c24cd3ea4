"""Pooling by name: a feature map to one vector (survey §4.2.1)."""

from typing import Literal

from torch import Tensor

from resight.pooling.average import average
from resight.pooling.gem import gem
from resight.pooling.mac import mac


def pool(x: Tensor, name: Literal["gem", "mac", "average"], p: float) -> Tensor:
    """B×C×H×W to B×C by the pooling of that name. p: of GeM."""
    match name:
        case "gem":
            return gem(x, p)
        case "mac":
            return mac(x)
        case "average":
            return average(x)
