"""A teacher: a network given by path, whose vectors of rendered pictures the compact one's are to agree with."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.learning.procedural.scenes import render
from resight.learning.procedural.settings import Rendering
from resight.learning.procedural.training import Teaching
from resight.networks.backbone import load_backbone
from resight.pooling.gem import gem
from resight.projection.moments import gather
from resight.projection.pca import pca

_CHUNK = 8  # subjects that the teacher's axes are learned of at once


class Teacher:
    """GeM vectors of a network's last map, on their principal axes over rendered subjects, of unit length.

    path: weights, as ``load_backbone`` takes them. seed, rendering, side: of the subjects that the axes are learned of.
    Raises RecipeError where network and weights cannot be had, the layer gives no map, or has fewer channels than
    ``dimensions``.
    """

    def __init__(
        self, path: Path, how: Teaching, *, seed: int, rendering: Rendering, side: int, device: torch.device
    ) -> None:
        self._p = how.p
        self._backbone = load_backbone(how.network, layers=(how.layer,), weights=path, device=device)
        layer = self._backbone.layers[0]
        if side % self._backbone.multiple:
            raise RecipeError(
                f"side = {side} must be a multiple of {self._backbone.multiple} for the teacher {how.network}"
            )
        if layer.kind != "map":
            raise RecipeError(f"teaching.layer = {how.layer} of {how.network} gives no map: choose another layer")
        self.fingerprint = self._backbone.fingerprint

        def vectors() -> Iterator[NDArray[np.float32]]:
            for first in range(0, how.fitted_on, _CHUNK):
                count = min(_CHUNK, how.fitted_on - first)
                scenes = render(seed, first, count, side, device=str(device), settings=rendering)
                yield self._pooled(scenes.images.flatten(0, 1)).cpu().numpy()

        axes = pca(gather(vectors(), how.dimensions), how.dimensions, fitted_on="rendered", descriptor=self.fingerprint)
        self._mean = torch.from_numpy(axes.mean).to(device)
        self._matrix = torch.from_numpy(axes.matrix).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """n×dimensions float32 of unit length, without a graph; images: n×3×H×W RGB in [0, 1]."""
        return F.normalize((self._pooled(images) - self._mean) @ self._matrix.T, dim=1)

    def _pooled(self, images: Tensor) -> Tensor:
        pooled = gem(self._backbone(images)[0].float(), self._p)
        return pooled.clone()  # it was made in inference mode, and is to take part in a loss


def regression(head: nn.Module, x: Tensor, wanted: Tensor) -> Tensor:
    """1 − cosine of what a head makes of descriptors and the teacher's vectors, mean; n×D and n×T of unit length.

    Regression of a normalised representation by a linear layer that is dropped afterwards, as in FitNets (Romero et
    al., ICLR 2015) with the squared distance of unit vectors.
    """
    return (1 - F.cosine_similarity(head(x), wanted, dim=1)).mean()
