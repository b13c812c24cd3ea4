"""CRN: a contextual reweighting network (survey §4.2.3; Kim, Dunn & Frahm, CVPR 2017)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map


def reweight(x: Tensor, mask: Tensor) -> Tensor:
    """x · mask, for any pooling to follow; a mask of ones leaves that pooling as it is.

    x: B×C×H×W. mask: B×1×H×W. Returns B×C×H×W. An embedding of residuals, such as the paper's NetVLAD, is to
    multiply these by the mask, and not its input. Raises ValueError where the two do not fit.
    """
    check_map(x)
    if mask.shape != (len(x), 1, *x.shape[2:]):
        raise ValueError(f"mask must be B×1×H×W for a map of {tuple(x.shape)}, not {tuple(mask.shape)}")
    return x * mask


class ContextualReweighting(nn.Module):
    """How much each position matters, seen in its surroundings; B×C×H×W to a mask of B×1×H×W, at least 0.

    The map is brought down to ``context`` cells; filters of several sizes look at these, each followed by a ReLU; a
    1×1 convolution accumulates their answers to one number a cell; bilinear interpolation brings it back to H×W.

    channels: C. filters: (side, number) of each size, odd sides; the paper's are the default. context: (rows, columns)
        the paper's 13×13; a map with fewer keeps those it has.

    Ours, where the paper leaves it open: average pooling to the context; a ReLU at the end, as in the published
    re-implementation (gmberton/deep-visual-geo-localization-benchmark), from which the initialisation also is, all
    accumulation weights 1, which there stay so and here are learned.
    Raises ValueError for an even side or a number below one.
    """

    def __init__(
        self,
        channels: int,
        filters: Sequence[tuple[int, int]] = ((3, 32), (5, 32), (7, 20)),
        context: tuple[int, int] = (13, 13),
    ) -> None:
        super().__init__()
        if not filters or any(side % 2 == 0 or side < 1 or number < 1 for side, number in filters) or min(context) < 1:
            raise ValueError(f"filters need odd sides and numbers above 0, and context cells, not {filters}, {context}")
        self.context = context
        self.filters = nn.ModuleList(nn.Conv2d(channels, number, side, padding="same") for side, number in filters)
        self.accumulate = nn.Conv2d(sum(number for _, number in filters), 1, 1)
        for conv in self.filters:
            nn.init.xavier_normal_(conv.weight)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.ones_(self.accumulate.weight)
        nn.init.zeros_(self.accumulate.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        check_map(x)
        height, width = x.shape[2:]
        context = F.adaptive_avg_pool2d(x, (min(height, self.context[0]), min(width, self.context[1])))
        answers = torch.cat([F.relu(conv(context)) for conv in self.filters], dim=1)
        mask = F.relu(self.accumulate(answers))
        return F.interpolate(mask, (height, width), mode="bilinear", align_corners=False)
