"""The [local] stage made runnable (survey §4.2.2)."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2

from resight.errors import RecipeError
from resight.images.image import Image
from resight.local.colours import small_picture
from resight.local.features import LocalFeatures, quantised
from resight.local.rootsift import rootsift
from resight.recipes.local_stages import (
    AlikedFeatures,
    ChannelStage,
    CompactFeatures,
    DelfFeatures,
    DoapFeatures,
    HowFeatures,
    LayerStage,
    LocalStage,
    MapStage,
    MaximaFeatures,
    PatchFeatures,
    Sift,
)

if TYPE_CHECKING:  # they import torch
    from resight.local.maps import Detector, NetworkFeatures

_ENLARGED = 2.0  # at most: more makes no detail


class LocalExtractor(Protocol):
    """Finds and describes an image's local features."""

    @property
    def fingerprint(self) -> str:
        """Of weights and learned parts; "" where the recipe says all."""
        ...

    def extract(self, image: Image) -> LocalFeatures:
        """The features, in pixels of the upright original, of the image at the size its pixels have.

        Descriptors are of the stage's ``stored`` type.
        """
        ...


def load_local(stage: LocalStage, recipe: str, engine: str | None = None) -> LocalExtractor:
    """A recipe's [local] stage made runnable.

    recipe: its name, for messages. engine: what runs a network whose layer is read.
    Raises RecipeError where its libraries, weights or learned parts cannot be had.
    """
    extractor = _load(stage, recipe, engine)
    return _Coloured(extractor, stage.colours) if stage.colours else extractor


def _load(stage: LocalStage, recipe: str, engine: str | None) -> LocalExtractor:
    if isinstance(stage, Sift):
        return _RootSift(stage)
    try:
        if isinstance(stage, LayerStage):
            return _OnMaps(stage, engine)
        return _Patches(stage, recipe)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"recipe {recipe} runs a network and needs {error.name}: pip install 'resight[deep]'"
        ) from error


class _Coloured:
    """Features with a small picture of what they were found in."""

    def __init__(self, extractor: LocalExtractor, side: int) -> None:
        self._extractor, self._side = extractor, side

    @property
    def fingerprint(self) -> str:
        return self._extractor.fingerprint

    def extract(self, image: Image) -> LocalFeatures:
        return replace(self._extractor.extract(image), colours=small_picture(image, self._side))


class _RootSift:
    fingerprint = ""

    def __init__(self, stage: Sift) -> None:
        self._stage = stage

    def extract(self, image: Image) -> LocalFeatures:
        stage = self._stage
        return rootsift(
            _enlarged(image, stage.enlarge),
            max_features=stage.max_features,
            contrast_threshold=stage.contrast_threshold,
            edge_threshold=stage.edge_threshold,
        )


class _Strongest(Protocol):
    def extract(self, image: Image, *, max_features: int) -> LocalFeatures: ...


class _Patches:
    """ALIKED, our own network, or a detector of regions and the networks for their patches."""

    def __init__(self, stage: AlikedFeatures | CompactFeatures | PatchFeatures | DoapFeatures, recipe: str) -> None:
        if not stage.weights and not isinstance(stage, CompactFeatures):
            raise RecipeError(
                f"recipe {recipe} has no weights for its local features: give them to `resight fit {recipe} PHOTOS "
                "--local-weights FILE --into FOLDER`, or as `weights` of [local]"
            )
        from resight.networks.compact import compact_weights
        from resight.networks.weights import check_sha256

        path = Path(stage.weights) if stage.weights else compact_weights()
        self.fingerprint = weights_sha256(path)
        check_sha256(self.fingerprint, stage.weights_sha256, str(path))
        self._stage = stage
        if isinstance(stage, AlikedFeatures):
            from resight.local.aliked import Aliked

            self._features: _Strongest = Aliked(path, stage.model, threshold=stage.threshold)
        elif isinstance(stage, CompactFeatures):
            from resight.local.compact import CompactKeypoints

            self._features = CompactKeypoints(path, scales=stage.scales, threshold=stage.threshold)
        elif isinstance(stage, DoapFeatures):
            from resight.local import doap

            self._features = doap.DoapFeatures(
                path, dimension=stage.dimensions, binary=stage.binary, threshold=stage.threshold
            )
        else:
            from resight.local.patch_network import HardTFeat

            self._features = HardTFeat(path, threshold=stage.threshold)

    def extract(self, image: Image) -> LocalFeatures:
        image = _enlarged(image, self._stage.enlarge)
        return quantised(self._features.extract(image, max_features=self._stage.max_features))


def _enlarged(image: Image, side: int) -> Image:
    """The image with its longest side brought to `side` pixels, at most twice as many as it has; never fewer."""
    height, width = image.pixels.shape[:2]
    factor = min(_ENLARGED, side / max(width, height))
    if factor <= 1:
        return image
    size = round(width * factor), round(height * factor)
    return replace(image, pixels=cv2.resize(image.pixels, size, interpolation=cv2.INTER_CUBIC))


def weights_sha256(path: Path) -> str:
    """sha256, in hex, of a weights file, or of the names and contents of all in a folder."""
    from resight.networks.weights import file_sha256

    if not path.is_dir():
        return file_sha256(path)
    facts = [f"{file.name} {file_sha256(file)}" for file in sorted(path.iterdir()) if file.is_file()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def load_network_features(stage: LayerStage, engine: str | None = None) -> "NetworkFeatures":
    """The features of a network's layer, with the projection that the stage names, if it names one."""
    from resight.local.maps import NetworkFeatures
    from resight.networks.backbone import load_backbone
    from resight.networks.weights import check_sha256
    from resight.projection.projection import Projection

    weights = Path(stage.weights) if stage.weights else None
    backbone = load_backbone(stage.network, layers=(stage.layer,), weights=weights, revision=stage.revision or None)
    check_sha256(backbone.weights_sha256, stage.weights_sha256, stage.weights or f"the weights of {stage.network}")
    projection = Projection.load(stage.reduction) if isinstance(stage, MapStage) and stage.reduction else None
    return NetworkFeatures(backbone, _detector(stage), max_side=stage.max_side, projection=projection, engine=engine)


class _OnMaps:
    def __init__(self, stage: LayerStage, engine: str | None) -> None:
        self._exact = isinstance(stage, ChannelStage)
        self._features = load_network_features(stage, engine)

    @property
    def fingerprint(self) -> str:
        return self._features.fingerprint

    def extract(self, image: Image) -> LocalFeatures:
        found = self._features.extract(image)
        return found if self._exact else quantised(found)


def _detector(stage: LayerStage) -> "Detector":
    if isinstance(stage, DelfFeatures):
        from resight.local.delf import Delf, read_delf_head

        return Delf(
            head=read_delf_head(stage.head) if stage.head else None,
            scales=stage.scales,
            top=stage.max_features,
            threshold=stage.threshold,
            overlap=stage.overlap,
            reduce=stage.reduce,
            dimensions=stage.dimensions,
        )
    if isinstance(stage, HowFeatures):
        from resight.local.how import How

        return How(scales=stage.scales, top=stage.max_features, dimensions=stage.dimensions, normalise=True)
    if isinstance(stage, ChannelStage):
        from resight.local.dsm import Dsm

        return Dsm(scales=stage.scales, overlap=stage.overlap, per_channel=stage.per_channel, top=stage.max_features)
    if not isinstance(stage, MaximaFeatures):
        raise TypeError(f"no detector for {type(stage).__name__}")
    from resight.local.maxima import Maxima

    return Maxima(
        scales=stage.scales, top=stage.max_features, edge=stage.edge, reduce="pca", dimensions=stage.dimensions
    )
