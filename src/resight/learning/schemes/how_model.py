"""HOW's global descriptor with gradients: how its local features are learned (Tolias, Jenicek & Chum, ECCV 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resight.pooling.sum_pooling import check_map, unit, weighted_sum
from resight.projection.projection import Projection


def weighted_local_sum(x: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """ℓ2(Σ_u ‖u‖ · P(ū − m)) over a map's vectors u, ū the mean of the 3×3 neighbourhood inside the map.

    x: B×C×H×W. mean: m, (C,). matrix: P, K×C. Returns B×K; zeros for a map of zeros. ``how_global`` is the same of
    one scale, without gradients. Raises ValueError where shapes do not fit.
    """
    check_map(x)
    if matrix.ndim != 2 or mean.shape != matrix.shape[1:] or x.shape[1:2] != mean.shape:
        raise ValueError(f"maps of {x.shape[1]} channels, mean {tuple(mean.shape)} and matrix {tuple(matrix.shape)}")
    lengths = torch.linalg.vector_norm(x, dim=1)
    # As parts of their sum, not of the largest: ℓ2 undoes both, and P need not be applied at each position.
    total = lengths.sum(dim=(1, 2), keepdim=True)
    shares = lengths / total.where(total > 0, 1.0)
    smoothed = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    centred = weighted_sum(smoothed, shares) - mean * (total[:, :, 0] > 0)
    return unit(centred @ matrix.T)


class HowGlobal(nn.Module):
    """``weighted_local_sum`` with a reduction that does not learn, as published (its rate is 0 in ``how_net.py``).

    B×C×H×W to B×K float32.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, projection: Projection) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(projection.mean.copy()))
        self.register_buffer("matrix", torch.from_numpy(projection.matrix.copy()))

    def forward(self, x: Tensor) -> Tensor:
        return weighted_local_sum(x.float(), self.mean, self.matrix)
