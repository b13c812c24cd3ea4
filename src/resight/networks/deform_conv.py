"""Deformable convolution in plain PyTorch, which runs where torchvision's compiled operator does not load.

Dai et al., Deformable Convolutional Networks, ICCV 2017, Eq. 2–3; with a mask, Zhu et al., Deformable ConvNets v2,
CVPR 2019, Eq. 1. It holds every sample at once, K times the map: meant for maps of reduced resolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def deform_conv2d(
    features: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """A convolution whose K = kh·kw taps each look, at each position, where an offset says; differentiable.

    features: B×C×H×W, read bilinearly and as zero outside. weight: O×C×kh×kw. bias: (O,).
    offset: B×2K×H'×W' in pixels of ``features``: Δy then Δx of each tap, taps row by row (torchvision's layout).
    mask: B×K×H'×W', a factor for each sample.
    Returns B×O×H'×W'. Raises ValueError where shapes do not go together.
    """
    batch, channels, height, width = features.shape
    outputs, _, kh, kw = weight.shape
    taps = kh * kw
    out_height = (height + 2 * padding - dilation * (kh - 1) - 1) // stride + 1
    out_width = (width + 2 * padding - dilation * (kw - 1) - 1) // stride + 1
    expected = {"weight": (outputs, channels, kh, kw), "offset": (batch, 2 * taps, out_height, out_width)}
    if mask is not None:
        expected["mask"] = (batch, taps, out_height, out_width)
    for name, tensor in {"weight": weight, "offset": offset, "mask": mask}.items():
        if tensor is not None and tensor.shape != expected[name]:
            shapes = f"{expected[name]} for features {tuple(features.shape)}"
            raise ValueError(f"{name} must be {shapes}, not {tuple(tensor.shape)}")

    def along(size: int, kernel: int) -> Tensor:
        """kernel×size: where an undisplaced tap looks along one axis."""
        starts = torch.arange(size, device=features.device) * stride - padding
        return torch.arange(kernel, device=features.device)[:, None] * dilation + starts

    by_tap = (batch, kh, kw, out_height, out_width)
    y = along(out_height, kh)[:, None, :, None] + offset[:, 0::2].reshape(by_tap)
    x = along(out_width, kw)[None, :, None, :] + offset[:, 1::2].reshape(by_tap)
    # grid_sample's frame without aligned corners, as it is defined for a side of one pixel too.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1).reshape(batch, taps, -1, 2)
    sampled = F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if mask is not None:
        sampled = sampled * mask.reshape(batch, 1, taps, -1)
    out = (weight.flatten(1) @ sampled.flatten(1, 2)).reshape(batch, outputs, out_height, out_width)
    return out if bias is None else out + bias[:, None, None]
