"""From the feature maps of a network at several scales to keypoints in the image (survey §4.2.2, describe-then-detect).

What such methods share: where a cell of a layer lies in the photograph, the strongest cells of all scales, thinning
of those that overlap, and the run of the network. Which cells count, and what describes them, is a ``Detector``'s.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.geometry.regions import nms
from resight.images.image import Image
from resight.local.features import LocalFeatures
from resight.projection.moments import gather
from resight.projection.pca import pca, pca_whitening
from resight.projection.projection import Projection

if TYPE_CHECKING:  # it imports torch
    from resight.networks.backbone import Backbone


@dataclass(frozen=True)
class Cells:
    """The centre of a layer's cell (row, column) is pixel stride · (column, row) + offset of what the network saw."""

    stride: int
    offset: float


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A layer's output for one picture of an image.

    values: C×h×w float32. picture, size: (width, height) of the picture and of the upright original, in pixels.
    """

    values: NDArray[np.float32]
    cells: Cells
    picture: tuple[int, int]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or 0 in self.values.shape:
            raise ValueError(f"values must be C×h×w with none of them 0, not {self.values.shape}")

    @property
    def pitch(self) -> NDArray[np.float64]:
        """(x, y) distance of neighbouring cells in pixels of the original."""
        return np.asarray(self.cells.stride * np.array(self.size) / np.array(self.picture))

    def xy(self, columns: NDArray[np.floating[Any]], rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """N×2: points of the map, also between cells, in pixels of the original."""
        seen = self.cells.stride * np.stack([columns, rows], axis=-1) + self.cells.offset
        # Pixel (0, 0) reaches half a pixel beyond its centre, so scaling moves it.
        return np.asarray((seen + 0.5) * np.array(self.size) / np.array(self.picture) - 0.5, np.float32)


@dataclass(frozen=True, eq=False)
class Points:
    """N cells of several maps, strongest first. level: which map. row, column: its cell. score: N float32."""

    level: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.level)

    def __getitem__(self, kept: NDArray[np.int64]) -> "Points":
        return Points(self.level[kept], self.row[kept], self.column[kept], self.score[kept])

    def take(self, maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """N×D: what the points have in a D×h×w map each level."""
        found = np.empty((len(self), len(maps[0])), np.float32)
        for level, values in enumerate(maps):
            here = self.level == level
            found[here] = values[:, self.row[here], self.column[here]].T
        return found

    def place(self, maps: Sequence[FeatureMap], field: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """xy, N×2, and size, N, in pixels of the original. field: diameter of what a cell describes, in strides."""
        xy, size = np.empty((len(self), 2), np.float32), np.empty(len(self), np.float32)
        for level, each in enumerate(maps):
            here = self.level == level
            xy[here] = each.xy(self.column[here].astype(float), self.row[here].astype(float))
            size[here] = field * np.sqrt(each.pitch.prod())
        return xy, size


def strongest(scores: Sequence[NDArray[np.float32]], top: int | None, threshold: float = 0.0) -> Points:
    """The `top` cells (None for all) of h×w score maps that are above the threshold; ties by level, row, column."""
    flat = np.concatenate([each.ravel() for each in scores])
    rows = np.concatenate([np.repeat(np.arange(each.shape[0]), each.shape[1]) for each in scores])
    columns = np.concatenate([np.tile(np.arange(each.shape[1]), each.shape[0]) for each in scores])
    levels = np.repeat(np.arange(len(scores)), [each.size for each in scores])
    order = np.argsort(-flat, kind="stable")
    order = order[flat[order] > threshold][:top]
    return Points(levels[order], rows[order], columns[order], flat[order].astype(np.float32))


def apart(
    xy: NDArray[np.float32], size: NDArray[np.float32], score: NDArray[np.float32], overlap: float, top: int
) -> NDArray[np.int64]:
    """Rows of the `top` keypoints that non-maximum suppression keeps between and within scales, strongest first.

    overlap: intersection over union of two keypoints' squares of side ``size`` above which the weaker goes (DELF's
    code, feature_extractor.py); 1 keeps all. Ties by row.
    """
    if overlap >= 1:
        return np.argsort(-score, kind="stable")[:top]
    half = size[:, np.newaxis] / 2
    return nms(np.concatenate([xy - half, xy + half], axis=1), score, overlap, top)


class Detector(Protocol):
    """Which cells of maps are features: a frozen value, one class a method (``delf``, ``how``, ``maxima``).

    kind: the method. scales: of the pictures; detect gets a map each, in this order.
    reduce, dimensions: what the descriptors are learned to be reduced by, and to how many dimensions.
    """

    @property
    def kind(self) -> str: ...

    @property
    def scales(self) -> tuple[float, ...]: ...

    @property
    def reduce(self) -> Literal["none", "pca", "pca-whitening"]: ...

    @property
    def dimensions(self) -> int: ...

    @property
    def identity(self) -> str:
        """All that decides ``detect``, as text."""
        ...

    def detect(self, maps: Sequence[FeatureMap]) -> LocalFeatures:
        """The features, strongest first, with descriptors as they are before the reduction; float32, angles 0."""
        ...

    def finish(self, descriptors: NDArray[np.float32], projection: Projection | None) -> NDArray[np.float32]:
        """N×C of ``detect`` to N×K. projection: learned as `reduce` says, or None for "none"."""
        ...


class NetworkFeatures:
    """Local features from one layer of a network.

    max_side: longest side in pixels of the picture at scale 1; smaller images are not enlarged to it.
    projection: what the detector's `reduce` asks for, as ``fit`` makes it. engine: as ``make_engine`` takes.
    Raises RecipeError where the backbone has not one layer that is a map, or the projection was fitted for others.
    """

    def __init__(
        self,
        backbone: "Backbone",
        detector: Detector,
        *,
        max_side: int = 1024,
        projection: Projection | None = None,
        engine: str | None = None,
    ) -> None:
        from resight.networks.engine import make_engine

        if len(backbone.layers) != 1 or backbone.layers[0].kind != "map":
            names = ", ".join(layer.name for layer in backbone.layers)
            raise RecipeError(f"layer {names} of {backbone.name}: local features need one layer that is a map")
        self.backbone, self.detector, self.max_side, self.projection = backbone, detector, max_side, projection
        self._engine = make_engine(backbone, engine)
        self._cells = measure_cells(backbone)
        if projection is not None:
            self._check(projection)

    @property
    def raw_fingerprint(self) -> str:
        """sha256, in hex, of all that decides what the projection is learned from."""
        facts = [self.backbone.fingerprint, self._engine.identity, self.detector.identity, self.max_side]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of all that decides ``extract``."""
        learned = self.projection.fingerprint if self.projection else ""
        return hashlib.sha256(json.dumps([self.raw_fingerprint, learned]).encode()).hexdigest()

    def maps(self, image: Image) -> list[FeatureMap]:
        """The layer's output at each of the detector's scales."""
        height, width = image.pixels.shape[:2]
        pictures = []
        for scale in self.detector.scales:
            factor = scale * min(1.0, self.max_side / max(width, height))
            pictures.append(_resized(image.pixels, (self._side(width * factor), self._side(height * factor))))
        values = {place: outputs[0][0].cpu().numpy() for place, outputs in self._engine.each(pictures)}
        return [
            FeatureMap(values[place], self._cells, (picture.shape[1], picture.shape[0]), image.size)
            for place, picture in enumerate(pictures)
        ]

    def raw(self, image: Image) -> LocalFeatures:
        """The features before their descriptors are reduced."""
        return self.detector.detect(self.maps(image))

    def extract(self, image: Image) -> LocalFeatures:
        """The features of an image, strongest first. Raises RecipeError where a projection is needed and not fitted."""
        if self.detector.reduce != "none" and self.projection is None:
            raise RecipeError(
                f"{self.detector.kind} features are reduced to {self.detector.dimensions} dimensions by a "
                f"{self.detector.reduce} that is not fitted yet: run `resight fit`"
            )
        raw = self.raw(image)
        return replace(raw, descriptors=self.detector.finish(_float32(raw), self.projection))

    def fit(self, images: Iterable[Image], *, fitted_on: str, photos: PhotoSketch | None = None) -> Projection:
        """What the detector's `reduce` asks for, learned from the features of images, each read once.

        Raises RecipeError where it asks for nothing, or the images have fewer features than it has dimensions.
        """
        detector = self.detector
        if detector.reduce == "none":
            raise RecipeError(f"{detector.kind} features are not reduced, so there is nothing to fit")
        moments = gather((_float32(self.raw(image)) for image in images), detector.dimensions)
        about: dict[str, Any] = {"fitted_on": fitted_on, "descriptor": self.raw_fingerprint, "photos": photos}
        if detector.reduce == "pca":
            return pca(moments, detector.dimensions, **about)
        return pca_whitening(moments, detector.dimensions, ridge=0.0, **about)

    def _check(self, projection: Projection) -> None:
        wanted, found = (
            f"a {each[0]} to {each[1]} dimensions"
            for each in ((self.detector.reduce, self.detector.dimensions), (projection.kind, projection.dimension))
        )
        if wanted != found:
            raise RecipeError(f"the projection is {found} where {wanted} is needed: fit it again with `resight fit`")
        if projection.descriptor != self.raw_fingerprint:
            raise RecipeError(
                f"the projection was fitted for another network, other weights or other parameters than these "
                f"{self.detector.kind} features have: fit it again with `resight fit`"
            )

    def _side(self, wanted: float) -> int:
        unit = self.backbone.multiple
        return max(-(-self.backbone.least // unit) * unit, round(wanted / unit) * unit)


def measure_cells(backbone: "Backbone") -> Cells:
    """Where the cells of a backbone's only layer lie, from how many it has for pictures of which side.

    At the least side that gives k cells no layer leaves a remainder, so they lie symmetrically in the picture. Exact
    for layers that pad evenly and round down, as convolutions, poolings and patch embeddings of PyTorch do. Where they
    round up (GoogLeNet's poolings, the shortcuts of ResNet-D) or pad unevenly (networks ported from TensorFlow), cells
    can be off by up to half a stride.
    """
    import torch

    stride = backbone.layers[0].stride
    if stride is None:
        raise RecipeError(f"layer {backbone.layers[0].name} of {backbone.name} is no map: choose one that is")
    if backbone.multiple > 1:  # patches, which partition the picture
        return Cells(stride, (stride - 1) / 2)

    def cells(side: int) -> int:
        return int(backbone(torch.zeros(1, 3, side, side))[0].shape[3])

    low, count = backbone.least, cells(backbone.least) + 1
    high = low + 2 * stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cells(middle) >= count else (middle, high)
    return Cells(stride, (high - 1 - stride * (count - 1)) / 2)


def _float32(features: LocalFeatures) -> NDArray[np.float32]:
    return features.descriptors.astype(np.float32, copy=False)


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """To (width, height) by an antialiased triangle filter, as global descriptors' pictures are."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BILINEAR))
