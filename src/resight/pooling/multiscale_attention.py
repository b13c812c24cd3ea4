"""Context-aware attention over regions of several scales (survey §4.2.3; Kim & Yoon, BMVC 2018).

From "Regional Attention Based Deep Feature for Image Retrieval" and its code (jaeyoon1603/Retrieval-RegionalAttention):
regions of the R-MAC grid at five levels; a region's weight from its mean feature beside the whole map's, the context,
through two layers, tanh and softplus; the image's vector, the mean of the regions' ℓ2-normalised maxima times weight.
Ours: the grid is laid on the map, where theirs is on the image and rounded to cells; ``attention_map``, which combines
the scales in one mask for other poolings and for drawing.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resight.pooling.rmac import region_cells, regional_mac
from resight.pooling.sum_pooling import check_map, unit


def regional_context(
    x: Tensor, levels: int = 5, variant: Literal["paper", "cirtorch"] = "paper", whole: bool | None = None
) -> Tensor:
    """B×C×H×W to B×R×2C: the mean over each region of ``region_cells``, followed by the mean over the whole map.

    Raises ValueError for another shape, RecipeError as ``geometry.regions.rigid_grid``.
    """
    check_map(x)
    regions = region_cells(x.shape[2], x.shape[3], levels, variant, whole)
    inside = _inside(x, regions)
    means = inside / inside.sum(dim=1, keepdim=True) @ x.flatten(2).mT
    return torch.cat([means, x.mean(dim=(2, 3)).unsqueeze(1).expand_as(means)], dim=2)


def weighted_regions(regions: Tensor, weights: Tensor) -> Tensor:
    """The mean of the regions' ℓ2-normalised vectors times weight: B×R×C and B×R to B×C.

    Raises ValueError where the two do not fit.
    """
    if regions.ndim != 3 or weights.shape != regions.shape[:2]:
        raise ValueError(f"weights must be B×R for regions B×R×C, not {tuple(weights.shape)}, {tuple(regions.shape)}")
    return (unit(regions) * weights.unsqueeze(2)).mean(dim=1)


def attention_map(
    weights: Tensor,
    height: int,
    width: int,
    levels: int = 5,
    variant: Literal["paper", "cirtorch"] = "paper",
    whole: bool | None = None,
) -> Tensor:
    """B×R weights of the regions of an H×W map to a mask of B×1×H×W: their sum at each position, divided by R.

    A position thus counts for as much as the regions that see it. Raises ValueError for another number of regions.
    """
    regions = region_cells(height, width, levels, variant, whole)
    if weights.ndim != 2 or weights.shape[1] != len(regions):
        raise ValueError(f"weights must be B×{len(regions)} for this map and grid, not {tuple(weights.shape)}")
    inside = _inside(weights.new_empty(0, 0, height, width), regions)
    return (weights @ inside).reshape(-1, 1, height, width) / len(regions)


def _inside(x: Tensor, regions: Sequence[tuple[int, int, int, int]]) -> Tensor:
    """R×H·W: 1 in the cells of a map x, B×C×H×W, that are in a region, else 0."""
    inside = x.new_zeros(len(regions), *x.shape[2:])
    for region, (x1, y1, x2, y2) in zip(inside, regions, strict=True):
        region[y1:y2, x1:x2] = 1
    return inside.flatten(1)


class RegionalAttention(nn.Module):
    """R-MAC by ``weighted_regions`` with learned weights; B×C×H×W to B×C, not normalised.

    channels: C. hidden: of the first layer. levels, variant, whole: of the grid, as ``r_mac``.
    whiten: maps the regions' maxima, B×R×C, before they are ℓ2-normalised; the paper's is PCA-whitening, fixed.

    Names are those of their ``region_attention``, so that its checkpoint loads: conv_att_1 and conv_att_2, with 2048
    channels and no ``whiten``, which theirs has outside.
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 64,
        levels: int = 5,
        variant: Literal["paper", "cirtorch"] = "paper",
        whole: bool | None = None,
        whiten: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv_att_1 = nn.Conv1d(2 * channels, hidden, 1)
        self.conv_att_2 = nn.Conv1d(hidden, 1, 1)
        self.whiten = whiten
        self.levels = levels
        self.variant = variant
        self.whole = whole

    def weights(self, x: Tensor) -> Tensor:
        """B×C×H×W to B×R, above 0: what each region counts for."""
        context = regional_context(x, self.levels, self.variant, self.whole).mT
        return F.softplus(self.conv_att_2(torch.tanh(self.conv_att_1(context)))).squeeze(1)

    def mask(self, x: Tensor) -> Tensor:
        """B×C×H×W to B×1×H×W: the weights of all scales in one map."""
        return attention_map(self.weights(x), x.shape[2], x.shape[3], self.levels, self.variant, self.whole)

    def forward(self, x: Tensor) -> Tensor:
        maxima = regional_mac(x, self.levels, self.variant, self.whole)
        return weighted_regions(maxima if self.whiten is None else self.whiten(maxima), self.weights(x))
