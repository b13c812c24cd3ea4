"""HOW: local features of a network trained by its global descriptor (Tolias, Jenicek & Chum, ECCV 2020; survey §4.2.2).

A feature is a cell of a map, weighted by the length w(u) of its vector u, described by the mean of its
3×3 neighbourhood, whitened to 128 dimensions by PCA (code: gtolias/how, ``how/networks/how_net.py``). The strongest
of all scales are kept. What the network is trained by is the same features, weighted and summed: ``how_global``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.features.multiscale import l2_normalise
from resight.local.features import LocalFeatures
from resight.local.maps import FeatureMap, strongest
from resight.projection.projection import Projection

PYRAMID = (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)
"""The scales of its evaluation (``_eval_how.yml``), of images 1024 pixels long."""


@dataclass(frozen=True)
class How:
    """A ``Detector``. top: features an image.

    normalise: make descriptors ℓ2-normalised, as ``match_by_words`` takes them; HOW's code gives them to ASMK as they
        are whitened.
    """

    kind: Literal["how"] = "how"
    scales: tuple[float, ...] = PYRAMID
    top: int = 1000
    reduce: Literal["none", "pca", "pca-whitening"] = "pca-whitening"
    dimensions: int = 128
    normalise: bool = False

    @property
    def identity(self) -> str:
        return json.dumps([self.kind, self.scales, self.top, self.normalise])

    def detect(self, maps: Sequence[FeatureMap]) -> LocalFeatures:
        """As ``Detector``'s. Scores are attentions as parts of the image's largest; sizes are the stride."""
        points = strongest(attentions([each.values for each in maps]), self.top)
        xy, size = points.place(maps, 1.0)
        descriptors = points.take([smoothed(each.values) for each in maps])
        return LocalFeatures(xy, size, np.zeros_like(size), points.score, descriptors)

    def finish(self, descriptors: NDArray[np.float32], projection: Projection | None) -> NDArray[np.float32]:
        """Centred and whitened."""
        whitened = _whitened(descriptors, projection)
        return (l2_normalise(whitened) if self.normalise else whitened).astype(np.float32)


def smoothed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """C×h×w: the mean of each cell's 3×3 neighbourhood, of what lies inside the map."""
    count = np.ones(values.shape[1:], np.float32)
    return np.asarray(_sum3(_sum3(values, 1), 2) / _sum3(_sum3(count, 0), 1), np.float32)


def attentions(maps: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """h×w for each C×h×w: the vectors' lengths, as parts of the largest of all; 0 where all are."""
    lengths = [np.linalg.norm(values, axis=0) for values in maps]
    largest = max(float(each.max()) for each in lengths) or 1.0
    return [np.asarray(each / largest, np.float32) for each in lengths]


def how_global(maps: Sequence[NDArray[np.float32]], projection: Projection | None) -> NDArray[np.float32]:
    """ℓ2(Σ_scales Σ_u w(u) · P(ū − m)), (K,) float32: the descriptor that HOW is trained by.

    As ``weighted_spoc`` in ``how/layers/functional.py``.

    maps: C×h×w at each scale. projection: P and m; None for none, which gives (C,).
    """
    total: NDArray[np.float64] | float = 0.0
    for values, weights in zip(maps, attentions(maps), strict=True):
        local = _whitened(smoothed(values).reshape(len(values), -1).T, projection)
        total = total + weights.ravel().astype(np.float64) @ local
    return l2_normalise(total).astype(np.float32)


def read_how_whitening(path: str | Path, descriptor: str) -> Projection:
    """The whitening of a published HOW network, from the ``head.safetensors`` that ``resight`` makes of its checkpoint.

    There it is a 1×1 convolution W x + b; here P(x − m) as ``centred`` makes it.
    descriptor: as ``Projection`` keeps it. Raises RecipeError where the file has none, or it cannot be so written.
    """
    from resight.networks.layouts.affine import centred
    from resight.networks.weights import load_state

    state = load_state(path)
    try:
        weight, bias = state["dim_reduction.weight"], state["dim_reduction.bias"]
    except KeyError as error:
        raise RecipeError(
            f"{path}: has no {error}, which HOW's networks have: import one of its checkpoints"
        ) from error
    layer = centred(weight.flatten(1), bias, f"layer of {Path(path).name}")
    mean, matrix = layer.mean.astype(np.float32), layer.matrix.astype(np.float32)
    return Projection(mean, matrix, "pca-whitening", n=0, fitted_on=layer.fitted_on, descriptor=descriptor)


def _whitened(vectors: NDArray[np.float32], projection: Projection | None) -> NDArray[np.float64]:
    """P(x − m) without ``Projection.transform``'s normalisation, which the published code does not have."""
    if projection is None:
        return vectors.astype(np.float64)
    whitened: NDArray[np.float64] = (vectors.astype(np.float64) - projection.mean) @ projection.matrix.T
    return whitened


def _sum3(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Each entry and its two neighbours along an axis, those outside being 0."""
    padded = np.pad(values, [(int(a == axis),) * 2 for a in range(values.ndim)])
    length = values.shape[axis]
    parts = [np.take(padded, range(start, start + length), axis) for start in range(3)]
    return parts[0] + parts[1] + parts[2]
