"""The [local] table: which local features an image has (survey §4.2.2)."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from resight.recipes.stage import Stage, check_one_place

# Keys whose values are paths of files or folders.
LOCAL_FILES = ("weights", "head", "reduction")


Scales = Annotated[tuple[Annotated[float, Field(gt=0, le=4)], ...], Field(min_length=1)]


class _Local(Stage):
    """What all have.

    max_features: an image, the strongest.
    colours: side in pixels of a small picture kept beside them, whose colours verification compares where it finds the
        same print; 0 keeps none, and verification sees only grey.
    oriented: whether keypoints have a scale and an orientation of their own, which verification then compares.
    stored: the type that descriptors are kept in; ``LocalFeatures.unit`` is its length of a unit vector.
    """

    oriented: ClassVar[bool] = False
    stored: ClassVar[np.dtype[np.uint8 | np.int8 | np.float32]] = np.dtype(np.int8)
    max_features: int = Field(default=1000, ge=16, le=100_000)
    colours: int = Field(default=0, ge=0, le=256)

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Of a descriptor."""


class _Enlarged(_Local):
    """enlarge: picture sides up to this many pixels are enlarged, at most twice, before features are looked for."""

    enlarge: int = Field(default=0, ge=0, le=4096)


class Sift(_Enlarged):
    """OpenCV's DoG detector and SIFT (Lowe 2004), square-rooted (Arandjelović & Zisserman 2012)."""

    detector: Literal["sift"]
    contrast_threshold: float = Field(default=0.01, ge=0)
    edge_threshold: float = Field(default=10.0, gt=0)
    oriented: ClassVar[bool] = True
    stored: ClassVar[np.dtype[np.uint8 | np.int8 | np.float32]] = np.dtype(np.uint8)

    @property
    def dimension(self) -> int:
        return 128


class WeightedStage(_Enlarged):
    """weights: path, relative to the recipe's folder. weights_sha256: of it, checked whenever it is loaded."""

    detector: str
    weights: str = ""
    weights_sha256: str = ""


class AlikedFeatures(WeightedStage):
    """ALIKED (Zhao et al. 2023) with a file of its published weights. threshold: of a keypoint's score."""

    detector: Literal["aliked"]
    model: Literal["aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32"] = "aliked-n16rot"
    threshold: float = Field(default=0.2, ge=0, lt=1)

    @property
    def dimension(self) -> int:
        return 64 if self.model == "aliked-t16" else 128


class CompactFeatures(WeightedStage):
    """Keypoints and descriptors of our own compact network.

    weights: "" for those that come with resight. scales: of the picture, on each of which keypoints are looked for.
    threshold: of a keypoint's likelihood in its cell of 8×8 pixels.
    """

    detector: Literal["compact"]
    scales: Scales = (1.0,)
    threshold: float = Field(default=0.01, ge=0, lt=1)

    @property
    def dimension(self) -> int:
        return 64


class PatchFeatures(WeightedStage):
    """Hessian blobs with AffNet's shapes, OriNet's orientations and HardTFeat's descriptors (Mishkin et al. 2018).

    weights: a folder with HardTFeat.pth, AffNet.pth and OriNet.pth. threshold: of the Hessian's response.
    """

    detector: Literal["hardtfeat"]
    threshold: float = Field(default=1e-5, ge=0)
    oriented: ClassVar[bool] = True

    @property
    def dimension(self) -> int:
        return 128


class DoapFeatures(WeightedStage):
    """Hessian blobs with AffNet's shapes, OriNet's orientations and DOAP's descriptors (He, Lu & Sclaroff 2018).

    weights: a folder with DOAP.mat, DOAP.safetensors or DOAP.pth, AffNet.pth and OriNet.pth.
    threshold: of the Hessian's response. dimensions: 128 as published; 256 where binary, whose descriptors are signs.
    """

    detector: Literal["doap"]
    threshold: float = Field(default=1e-5, ge=0)
    dimensions: int = Field(default=128, ge=8, le=1024, multiple_of=8)
    binary: bool = False
    oriented: ClassVar[bool] = True

    @property
    def dimension(self) -> int:
        return self.dimensions


class LayerStage(_Local):
    """Features of one layer of a network.

    max_side: longest side in pixels of what the network sees at scale 1; smaller images are not enlarged to it.
    weights, revision, weights_sha256: as of a branch of [global].
    """

    network: str
    layer: str
    max_side: int = Field(default=1024, ge=32, le=4096)
    weights: str = ""
    revision: str = ""
    weights_sha256: str = ""

    @model_validator(mode="after")
    def _weights_come_from_one_place(self) -> Self:
        check_one_place(self.weights, self.revision)
        return self


class MapStage(LayerStage):
    """dimensions: after reduction. reduction: artefact of what they are reduced by, which `resight fit` makes."""

    dimensions: int = Field(default=128, ge=8, le=1024, multiple_of=8)
    reduction: str = ""

    @property
    def dimension(self) -> int:
        return self.dimensions


class DelfFeatures(MapStage):
    """DELF (Noh et al. 2017) or DELG (Cao et al. 2020).

    head: weights of the scorer, and for DELG the autoencoder, which then makes the descriptors; "" scores by a
        feature's length. threshold, overlap: of a score, and of neighbours beyond which the weaker goes; 1 keeps all.
    """

    detector: Literal["delf"]
    scales: Scales = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
    head: str = ""
    threshold: float = Field(default=0.0, ge=0)
    overlap: float = Field(default=1.0, gt=0, le=1)
    reduce: Literal["none", "pca", "pca-whitening"] = "pca"


class HowFeatures(MapStage):
    """HOW (Tolias, Jenicek & Chum 2020); descriptors are ℓ2-normalised after whitening."""

    detector: Literal["how"]
    scales: Scales = (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)


class MaximaFeatures(MapStage):
    """Local maxima of a layer's channels, as D2-Net detects them (Dusmanu et al. 2019)."""

    detector: Literal["maxima"]
    scales: Scales = (0.5, 1.0, 2.0)
    edge: float = Field(default=5.0, gt=0)


class ChannelStage(LayerStage):
    """DSM's features (Siméoni, Avrithis & Chum 2019): stable regions of a layer's channels, for [[rerank]] dsm only.

    overlap, per_channel: as ``resight.local.dsm.channel_features`` takes them.
    """

    detector: Literal["dsm"]
    scales: Scales = (1.0, 0.7071, 0.5)
    overlap: float = Field(default=0.2, gt=0, le=1)
    per_channel: int = Field(default=10, ge=1)
    max_features: int = Field(default=2048, ge=16, le=100_000)
    stored: ClassVar[np.dtype[np.uint8 | np.int8 | np.float32]] = np.dtype(np.float32)

    @property
    def dimension(self) -> int:
        return 5


LocalStage = Annotated[
    Sift
    | AlikedFeatures
    | CompactFeatures
    | PatchFeatures
    | DoapFeatures
    | DelfFeatures
    | HowFeatures
    | MaximaFeatures
    | ChannelStage,
    Field(discriminator="detector"),
]
