"""The ``[loss]`` table of a training: which loss, and its parameters."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from resight.learning.losses.loss import Reduction
from resight.learning.losses.siamese import Form
from resight.recipes.stage import Stage

Margin = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Width = Annotated[int, Field(ge=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]


class _Classifier(Stage):
    bias: bool = True
    normalised: bool = False
    temperature: float = Field(default=1.0, gt=0)


class CrossEntropyStage(_Classifier):
    """Eq. 10, on a linear classifier; normalised, on cosines, which need a temperature well below 1."""

    kind: Literal["cross-entropy"]


class ArcFaceStage(Stage):
    """Additive angular margin, in radians."""

    kind: Literal["arcface"]
    margin: float = Field(default=0.5, ge=0, lt=math.pi)
    scale: float = Field(default=64.0, gt=0)


class CosFaceStage(Stage):
    """Additive cosine margin."""

    kind: Literal["cosface"]
    margin: float = Field(default=0.35, ge=0)
    scale: float = Field(default=64.0, gt=0)


class NonMetricStage(Stage):
    """Eq. 12; only the similarity network learns. hidden: the widths of its layers between 2D and 1."""

    kind: Literal["nonmetric"]
    margin: float = Field(default=0.2, ge=0)
    hidden: tuple[Width, ...] = (4096, 4096)
    reduction: Reduction = "mean"


class SiameseStage(Stage):
    """Eq. 13; form "cirtorch" is of Euclidean distances, as GeM was trained, whose margin was 0.7 to 0.85."""

    kind: Literal["siamese"]
    margin: Margin = 0.7
    form: Form = "survey"
    reduction: Reduction = "mean"


class _DoubleMargin(Stage):
    near: float = Field(default=0.2, ge=0)
    far: float = 1.0
    reduction: Reduction = "mean"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.near <= self.far:
            raise ValueError(f"far must be at least near, {self.near}, not {self.far}")
        return self


class DoubleMarginStage(_DoubleMargin):
    """Eq. 14; near and far are of squared distances, from 0 to 4 where descriptors are normalised."""

    kind: Literal["double-margin"]


class QuartetStage(_DoubleMargin):
    """Eq. 14, and weight times the squared distance from the descriptors that the network gave before."""

    kind: Literal["quartet"]
    weight: Weight = 1.0


class TripletStage(Stage):
    """Eq. 15. reduction: "active" is the mean of the triplets above 0; of all of a batch most are soon 0."""

    kind: Literal["triplet"]
    margin: Margin = 0.1
    reduction: Reduction = "active"


class JointStage(_Classifier):
    """Eq. 16: alpha times triplet loss and beta times cross-entropy."""

    kind: Literal["joint"]
    alpha: Weight = 1.0
    beta: Weight = 1.0
    margin: Margin = 0.1
    reduction: Reduction = "active"


class QuadrupletStage(Stage):
    """A triplet and a second negative, with a margin for each."""

    kind: Literal["quadruplet"]
    margin: Margin = 1.0
    second: Margin = 0.5
    reduction: Reduction = "active"


class GroupGroupStage(Stage):
    """Classes as groups; those whose centres' cosine is above the threshold are driven apart."""

    kind: Literal["group-group"]
    threshold: Cosine = 0.4


class ListwiseApStage(Stage):
    """Eq. 17 by soft bins from low to high. query_counts: whether a query ranks itself too, as a positive."""

    kind: Literal["listwise-ap"]
    bins: int = Field(default=20, ge=2)
    low: float = -1.0
    high: float = 1.0
    query_counts: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"high must be above low, {self.low}, not {self.high}")
        return self


class SmoothApStage(Stage):
    """Eq. 17 by sigmoids of a temperature. query_counts: whether a query ranks itself too, as a positive."""

    kind: Literal["smooth-ap"]
    temperature: float = Field(default=0.01, gt=0)
    query_counts: bool = False


class EntropySiameseStage(Stage):
    """IRT's: contrastive on cosines with a margin, and weight times the KoLeo regulariser."""

    kind: Literal["entropy-siamese"]
    margin: float = Field(default=0.5, ge=-1, lt=1)
    weight: Weight = 0.7


class SolarStage(Stage):
    """Triplet loss, and weight times the second-order similarity loss."""

    kind: Literal["solar"]
    margin: Margin = 1.25
    weight: Weight = 10.0


LossStage = Annotated[
    CrossEntropyStage
    | ArcFaceStage
    | CosFaceStage
    | NonMetricStage
    | SiameseStage
    | DoubleMarginStage
    | QuartetStage
    | TripletStage
    | JointStage
    | QuadrupletStage
    | GroupGroupStage
    | ListwiseApStage
    | SmoothApStage
    | EntropySiameseStage
    | SolarStage,
    Field(discriminator="kind"),
]
