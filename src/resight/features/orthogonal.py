"""DOLG's fusion of a global vector with what local features add to it (survey §4.1.3; Yang et al., ICCV 2021)."""

import torch
from torch import Tensor, nn


def orthogonal_component(local: Tensor, global_: Tensor) -> Tensor:
    """f_l − (f_l · f_g / |f_g|²) f_g at each position: the part of it that the global vector lacks (§3.3).

    local: B×C×H×W. global_: B×C; of a zero vector there is no part to take off. Returns B×C×H×W.
    Raises ValueError where the two do not fit.
    """
    if local.ndim != 4 or 0 in local.shape[2:] or global_.shape != local.shape[:2]:
        raise ValueError(f"local must be B×C×H×W and global_ B×C, not {tuple(local.shape)} and {tuple(global_.shape)}")
    # By the unit vector: the square of a length above 255 leaves the range of half.
    length: Tensor = torch.linalg.vector_norm(global_, dim=1, keepdim=True)
    direction = (global_ / length.where(length > 0, 1.0))[:, :, None, None]
    return local - (local * direction).sum(dim=1, keepdim=True) * direction


def orthogonal_fusion(local: Tensor, global_: Tensor) -> Tensor:
    """B×2C: the global vector, then the mean over positions of ``orthogonal_component``; nothing to train.

    The same as concatenating both at each position and then taking the mean, which is the paper's order. Raises
    ValueError where the two do not fit.
    """
    return torch.cat([global_, orthogonal_component(local, global_).mean(dim=(2, 3))], dim=1)


class OrthogonalFusion(nn.Module):
    """``orthogonal_fusion``, then a fully connected layer, ``fc``, to D: B×C×H×W and B×C to B×D.

    DOLG's C is 1024 and D 512; its local map is a DELF-like branch's, its global vector GeM's, after a linear layer
    that gives it C values. channels: C. dimensions: D.
    """

    def __init__(self, channels: int, dimensions: int = 512) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * channels, dimensions)

    def forward(self, local: Tensor, global_: Tensor) -> Tensor:
        fused: Tensor = self.fc(orthogonal_fusion(local, global_))
        return fused
