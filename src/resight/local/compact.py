"""Keypoints and descriptors of our own compact network (``resight.networks.compact``).

As SuperPoint (DeTone et al. 2018): each cell of 8×8 pixels says how likely the keypoint in it is at each of its pixels,
and descriptors are read bilinearly from the map at stride 8. As XFeat (Potje et al. 2024): the score of a keypoint is
its likelihood times how reliable the descriptor there is.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from resight.errors import RecipeError
from resight.images.image import Image
from resight.local.features import LocalFeatures
from resight.local.peaks import soft_peaks
from resight.networks.compact import CELL, Compact, CompactMaps, load_compact

_FIELD = 32  # pixels of its input to a cell of the coarsest map that a descriptor comes from


class CompactKeypoints:
    """The compact network's local side, with a file of its weights, on the CPU.

    scales: of the image, on each of which keypoints are looked for; the strongest of all are kept.
    threshold: of a keypoint's likelihood, in [0, 1).
    oriented: whether ``size`` and ``angle`` of its features tell how a patch was seen. The network estimates neither:
        size is 32 pixels of its input, and angle 0.
    Raises RecipeError for arguments out of range, or weights that ``load_compact`` refuses.
    """

    oriented: ClassVar[bool] = False

    def __init__(self, weights: Path, *, scales: Sequence[float] = (1.0,), threshold: float = 0.01) -> None:
        if not scales or min(scales) <= 0:
            raise RecipeError(f"scales must be one or more above 0, not {tuple(scales)}")
        if not 0 <= threshold < 1:
            raise RecipeError(f"threshold must be at least 0 and below 1, not {threshold}")
        self._network = load_compact(weights).folded().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._scales, self._threshold = tuple(scales), threshold

    @torch.inference_mode()
    def extract(self, image: Image, *, max_features: int) -> LocalFeatures:
        """The strongest `max_features` features of an image at the size its pixels have; ties by scale, then (y, x).

        score: in (0, 1). descriptors: N×64 float32 of unit length.
        Raises RecipeError where max_features is not positive.
        """
        if max_features < 1:
            raise RecipeError(f"max_features must be at least 1, not {max_features}")
        found = [self._at_scale(image, scale) for scale in self._scales]
        joined = LocalFeatures(
            np.concatenate([each.xy for each in found]),
            np.concatenate([each.size for each in found]),
            np.concatenate([each.angle for each in found]),
            np.concatenate([each.score for each in found]),
            np.concatenate([each.descriptors for each in found]),
        )
        return joined.part(np.argsort(-joined.score, kind="stable")[:max_features])

    def _at_scale(self, image: Image, scale: float) -> LocalFeatures:
        """All features of the image at a scale, in pixels of the original, by likelihood."""
        image = _scaled(image, scale)
        height, width = image.pixels.shape[:2]
        unit = Compact.multiple
        padded = np.pad(image.pixels, ((0, -height % unit), (0, -width % unit), (0, 0)), mode="edge")
        x = torch.from_numpy(padded)[None].permute(0, 3, 1, 2)  # channels last, as the network is
        maps: CompactMaps = self._network(x.float() / 255)
        heat = likelihood(maps.keypoints)[0, :height, :width].numpy()
        with np.errstate(divide="ignore"):
            xy, log = soft_peaks(np.log(heat), float(np.log(self._threshold)), height * width, temperature=1.0)
        descriptors = F.normalize(read(maps.local, xy), dim=1).numpy()
        score = np.exp(log) * torch.sigmoid(read(maps.reliability, xy)[:, 0]).numpy()
        sx, sy = image.scale
        n = len(xy)
        return LocalFeatures(
            image.original_xy(xy).astype(np.float32),
            np.full(n, _FIELD / np.sqrt(sx * sy), np.float32),
            np.zeros(n, np.float32),
            score,
            descriptors,
        )


def likelihood(keypoints: Tensor) -> Tensor:
    """B×H×W, of a keypoint at each pixel given those of its cell, of ``CompactMaps.keypoints``."""
    return F.pixel_shuffle(keypoints.softmax(dim=1)[:, :-1], CELL)[:, 0]


def read(maps: Tensor, xy: NDArray[np.float32]) -> Tensor:
    """N×C, bilinear between the cells of a 1×C×H/8×W/8 map and constant beyond them, at N×2 pixel positions."""
    height, width = maps.shape[2:]
    grid = (torch.from_numpy(xy) + 0.5) * 2 / (CELL * torch.tensor([width, height])) - 1
    return F.grid_sample(maps, grid[None, None], padding_mode="border", align_corners=False)[0, :, 0].T


def _scaled(image: Image, scale: float) -> Image:
    height, width = image.pixels.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (width, height):
        return image
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return replace(image, pixels=np.asarray(cv2.resize(image.pixels, size, interpolation=way)))
