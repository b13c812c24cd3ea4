"""One vector from a transformer's tokens: the class token, the patches, or both (survey §4.2.3).

patches: B×C×h×w, the patch tokens on their grid. cls: B×C, the class token. Both after the network's last
normalisation, as the layers ``tokens`` and ``cls`` of ``networks`` are.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resight.pooling.average import average
from resight.pooling.gem import gem
from resight.pooling.sum_pooling import check_map, unit, weighted_sum

Name = Literal["cls", "mean", "cls-gem", "attention"]


def pool_tokens(
    patches: Tensor,
    cls: Tensor,
    name: Name,
    p: float | Tensor = 3.0,
    temperature: float | Tensor = 0.1,
) -> Tensor:
    """B×C×h×w and B×C to B×C, or B×2C for ``cls-gem``, by the pooling of that name.

    cls: the class token. mean: of the patches. cls-gem: ``class_and_gem``. attention: ``attended_patches``.
    Raises ValueError where these do not fit.
    """
    _check(patches, cls)
    match name:
        case "cls":
            return cls
        case "mean":
            return average(patches)
        case "cls-gem":
            return class_and_gem(patches, cls, p)
        case "attention":
            return attended_patches(patches, cls, temperature)
        case _:
            raise ValueError(f"name must be cls, mean, cls-gem or attention, not {name!r}")


def class_and_gem(patches: Tensor, cls: Tensor, p: float | Tensor = 3.0) -> Tensor:
    """B×2C: the class token beside GeM of the patches, each ℓ2-normalised, so that a cosine is the mean of both's.

    DINOv2's own evaluation sets the class token beside the patches' mean, unnormalised (Oquab et al., TMLR 2024).
    Tokens have either sign, and GeM sees what is above 0. Raises ValueError where these do not fit.
    """
    _check(patches, cls)
    return torch.cat([unit(cls), unit(gem(patches, p))], dim=1)


def attended_patches(patches: Tensor, cls: Tensor, temperature: float | Tensor = 0.1) -> Tensor:
    """B×C: Σ_{h,w} ``class_attention`` · patches. Raises ValueError where these do not fit."""
    return weighted_sum(patches, class_attention(patches, cls, temperature)).squeeze(1)


def class_attention(patches: Tensor, cls: Tensor, temperature: float | Tensor = 0.1) -> Tensor:
    """B×1×h×w, softmax over the positions of cos(patch, cls) / temperature: where the class token looks, from outside.

    temperature: above 0; the patches' mean as it grows, the patch most like the class token as it falls.
    The network's own attention of its last block would need its inside; this form is ours.
    Raises ValueError where these do not fit.
    """
    _check(patches, cls)
    if not isinstance(temperature, Tensor) and temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    cosine = (F.normalize(patches, dim=1) * unit(cls)[:, :, None, None]).sum(dim=1, keepdim=True)
    return (cosine.flatten(2) / temperature).softmax(dim=2).reshape(cosine.shape)


def _check(patches: Tensor, cls: Tensor) -> None:
    check_map(patches)
    if cls.shape != patches.shape[:2]:
        raise ValueError(f"cls must be {tuple(patches.shape[:2])} beside these patches, not {tuple(cls.shape)}")


class TokenPooling(nn.Module):
    """``pool_tokens`` by one of its names; p and temperature are learned where it uses them.

    name: as in ``pool_tokens``. p, temperature: where learning starts, above 0. Raises ValueError for others.
    """

    def __init__(self, name: Name, p: float = 3.0, temperature: float = 0.1) -> None:
        super().__init__()
        if name not in get_args(Name) or p <= 0 or temperature <= 0:
            raise ValueError(
                f"name must be among {', '.join(get_args(Name))}, p and temperature above 0, not {name!r}, {p}, "
                f"{temperature}"
            )
        self.name: Name = name
        self.p = nn.Parameter(torch.tensor(float(p)), requires_grad=name == "cls-gem")
        self.temperature = nn.Parameter(torch.tensor(float(temperature)), requires_grad=name == "attention")

    def forward(self, patches: Tensor, cls: Tensor) -> Tensor:
        return pool_tokens(patches, cls, self.name, self.p, self.temperature)
