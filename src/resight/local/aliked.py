"""ALIKED: keypoints where a learned score peaks, described from deformable positions around them.

Zhao et al., ALIKED: A Lighter Keypoint and Descriptor Extraction Network via Deformable Transformation, IEEE TIM 2023;
the detector is DKD of the same authors' ALIKE, IEEE TMM 2022. After https://github.com/Shiaoming/ALIKED (BSD-3), whose
parameters' names are kept. There the aggregated map has 64 or 128 channels at full resolution. Here it is never made:
the score head's first layer is linear, so it is applied before upsampling, and descriptors read the map where they
need it, which gives the same result in a fraction of the memory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.images.image import Image
from resight.local.features import LocalFeatures
from resight.local.peaks import soft_peaks
from resight.networks.deform_conv import deform_conv2d
from resight.networks.weights import load_into, load_state

Model = Literal["aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32"]

# Channels of the four blocks, and deformable positions of a descriptor. Descriptors are as wide as block 4.
_SIZES: dict[Model, tuple[tuple[int, int, int, int], int]] = {
    "aliked-t16": ((8, 16, 32, 64), 16),
    "aliked-n16": ((16, 32, 64, 128), 16),
    "aliked-n16rot": ((16, 32, 64, 128), 16),
    "aliked-n32": ((16, 32, 64, 128), 32),
}
_COARSEST = 32  # input pixels to a cell of the last block's map


class Aliked:
    """ALIKED with its published weights, on the CPU.

    threshold: of the score, which is in (0, 1); the authors' 0.2.
    oriented: whether ``size`` and ``angle`` of its features tell how a patch was seen. ALIKED estimates neither: size
        is that of a cell of its coarsest map, 32 pixels of its input, and angle 0, for every keypoint of an image.
    Raises RecipeError for an unknown model, a threshold outside [0, 1), or weights that are not the model's.
    """

    oriented: ClassVar[bool] = False

    def __init__(self, weights: Path, model: Model, *, threshold: float = 0.2) -> None:
        if model not in _SIZES:
            raise RecipeError(f"model must be one of {', '.join(get_args(Model))}, not {model!r}")
        if not 0 <= threshold < 1:
            raise RecipeError(f"threshold must be at least 0 and below 1, not {threshold}")
        self._network = AlikedNetwork(*_SIZES[model])
        load_into(self._network, load_state(weights), weights)
        self._network.eval()
        self._threshold = threshold

    @torch.inference_mode()
    def extract(self, image: Image, *, max_features: int) -> LocalFeatures:
        """The strongest `max_features` features of an image at the size its pixels have; ties by position (y, x).

        score: of the peak, in (0, 1). descriptors: N×D float32 of unit length, D 128 or, for aliked-t16, 64.
        Raises RecipeError where max_features is not positive.
        """
        if max_features < 1:
            raise RecipeError(f"max_features must be at least 1, not {max_features}")
        height, width = image.pixels.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(image.pixels)).permute(2, 0, 1)[None].float() / 255
        across, down = -width % _COARSEST, -height % _COARSEST
        left, top = across // 2, down // 2
        levels, scores = self._network(F.pad(pixels, (left, across - left, top, down - top), mode="replicate"))
        seen = scores[0, 0, top : top + height, left : left + width].contiguous().numpy()
        xy, score = soft_peaks(seen, self._threshold, max_features)
        field = Aggregated(levels, (left, top), (width, height))
        descriptors = self._network.desc_head(field, torch.from_numpy(xy))
        sx, sy = image.scale
        n = len(xy)
        return LocalFeatures(
            image.original_xy(xy).astype(np.float32),
            np.full(n, _COARSEST / np.sqrt(sx * sy), np.float32),
            np.zeros(n, np.float32),
            score,
            descriptors.numpy(),
        )


class Aggregated:
    """The network's D-channel map at full resolution, made only where it is read.

    levels: 1×D/4×h×w each, of the padded input, at its resolution and coarser ones. corner: (x, y) of the image in
    the padded input; size: (width, height) of the image. Positions are pixels of the image.
    """

    def __init__(self, levels: Sequence[Tensor], corner: tuple[int, int], size: tuple[int, int]) -> None:
        self.size = torch.tensor(size)
        self._levels = levels
        self._corner = torch.tensor(corner)
        self._last = torch.tensor(levels[0].shape[:1:-1]) - 1

    def at(self, xy: Tensor) -> Tensor:
        """M×D, unit length, at M×2 whole pixels."""
        grid = 2 * (xy + self._corner) / self._last - 1
        sampled = [F.grid_sample(level, grid[None, None], align_corners=True)[0, :, 0] for level in self._levels]
        return F.normalize(torch.cat(sampled).T, dim=1)

    def between(self, xy: Tensor) -> Tensor:
        """M×D, bilinear between whole pixels, which are zero outside the image, at M×2 positions."""
        low = xy.floor()
        blend = torch.zeros(())
        for corner in torch.cartesian_prod(torch.arange(2), torch.arange(2)):
            pixel = low + corner
            inside = ((pixel >= 0) & (pixel < self.size)).all(dim=1)
            share = (1 - (xy - pixel).abs()).prod(dim=1) * inside
            blend = blend + share[:, None] * self.at(torch.minimum(pixel.clamp(min=0), self.size - 1))
        return blend


class AlikedNetwork(nn.Module):
    """From 1×3×H×W RGB in [0, 1], sides multiples of 32: four levels 1×D/4×…, and scores 1×1×H×W in (0, 1)."""

    def __init__(self, channels: tuple[int, int, int, int], positions: int) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        self.block1 = _Block(c1, _conv3x3(3, c1), _conv3x3(c1, c1))
        self.block2 = _Block(c2, _conv3x3(c1, c2), _conv3x3(c2, c2), nn.Conv2d(c1, c2, 1))
        self.block3 = _Block(c3, _Deformable(c2, c3), _Deformable(c3, c3), nn.Conv2d(c2, c3, 1))
        self.block4 = _Block(c4, _Deformable(c3, c4), _Deformable(c4, c4), nn.Conv2d(c3, c4, 1))
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(c, c4 // 4, 1, bias=False) for c in channels)
        to_eight = nn.Conv2d(c4, 8, 1, bias=False)
        self.score_head = nn.Sequential(
            to_eight, nn.SELU(), _conv3x3(8, 4), nn.SELU(), _conv3x3(4, 4), nn.SELU(), _conv3x3(4, 1)
        )
        self.desc_head = DescriptorHead(c4, positions)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        x1 = self.block1(image)
        x2 = self.block2(F.avg_pool2d(x1, 2))
        x3 = self.block3(F.avg_pool2d(x2, 4))
        x4 = self.block4(F.avg_pool2d(x3, 4))
        reduce = (self.conv1, self.conv2, self.conv3, self.conv4)
        levels = [F.selu(conv(x)) for conv, x in zip(reduce, (x1, x2, x3, x4), strict=True)]
        # A 1×1 convolution of the upsampled levels is the sum of those of its parts, upsampled after.
        parts = self.score_head.get_parameter("0.weight").chunk(4, dim=1)
        first = sum(
            F.interpolate(F.conv2d(level, part), size=image.shape[2:], mode="bilinear", align_corners=True)
            for level, part in zip(levels, parts, strict=True)
        )
        return levels, torch.sigmoid(self.score_head[1:](first))


class DescriptorHead(nn.Module):
    """Sparse deformable descriptor head (ALIKED's SDDH).

    The 3×3 window at a keypoint says at which positions around it the map is read; the features found there are
    weighted by a matrix each and summed.
    """

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        self.offset_conv = nn.Sequential(
            nn.Conv2d(channels, 2 * positions, 3), nn.SELU(), nn.Conv2d(2 * positions, 2 * positions, 1)
        )
        self.sf_conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.agg_weights = nn.Parameter(torch.zeros(positions, channels, channels))

    def forward(self, field: Aggregated, xy: Tensor) -> Tensor:
        """Descriptors N×D float32 of unit length at N×2 positions, in an image of at least 4×4 pixels if N > 0."""
        n, (positions, channels, _) = len(xy), self.agg_weights.shape
        if n == 0:
            return torch.empty(0, channels)
        offset = self.offset_conv(self._windows(field, xy)).reshape(n, 2, positions).transpose(1, 2)
        reach = int(field.size.max()) / 4
        found = field.between((xy[:, None] + offset.clamp(-reach, reach)).reshape(-1, 2))
        features = F.selu(F.linear(found, self.sf_conv.weight.flatten(1))).reshape(n, positions * channels)
        return F.normalize(features @ self.agg_weights.flatten(0, 1), dim=1)

    @staticmethod
    def _windows(field: Aggregated, xy: Tensor) -> Tensor:
        """N×D×3×3 of the map around each position, moved inwards as the authors do, a pixel more than they need."""
        first = torch.minimum((xy.long() - 1).clamp(min=0), field.size - 4)
        step = torch.arange(3)
        pixels = first[:, None, None] + torch.stack(torch.meshgrid(step, step, indexing="xy"), dim=-1)
        return field.at(pixels.reshape(-1, 2)).reshape(len(xy), 3, 3, -1).permute(0, 3, 1, 2)


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


class _Deformable(nn.Module):
    """A 3×3 convolution that estimates its own offsets, at most a quarter of the map's longer side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.offset_conv = nn.Conv2d(inputs, 18, 3, padding=1)
        self.regular_conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        reach = max(x.shape[2:]) / 4
        return deform_conv2d(x, self.offset_conv(x).clamp(-reach, reach), self.regular_conv.weight, padding=1)


class _Block(nn.Module):
    """Two convolutions with batch normalisation and SELU; with ``downsample``, a residual of it."""

    def __init__(self, outputs: int, conv1: nn.Module, conv2: nn.Module, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv1, nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv2, nn.BatchNorm2d(outputs)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.selu(self.bn1(self.conv1(x)))))
        return F.selu(out if self.downsample is None else out + self.downsample(x))
