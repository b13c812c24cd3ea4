"""The loss that a ``[loss]`` table names, with what it learns drawn by a seed."""

from resight.learning.losses import stages as s
from resight.learning.losses.classification import ArcFaceLoss, CosFaceLoss, CrossEntropyLoss
from resight.learning.losses.entropy import EntropySiameseLoss
from resight.learning.losses.group import GroupGroupLoss
from resight.learning.losses.listwise import ListwiseApLoss, SmoothApLoss
from resight.learning.losses.loss import Loss
from resight.learning.losses.nonmetric import NonMetricLoss
from resight.learning.losses.quartet import QuartetLoss
from resight.learning.losses.siamese import DoubleMarginLoss, SiameseLoss
from resight.learning.losses.solar import SolarLoss
from resight.learning.losses.triplet import JointLoss, QuadrupletLoss, TripletLoss
from resight.search.rerank.nonmetric import SimilarityNetwork


def make_loss(stage: s.LossStage, *, dimensions: int, classes: int, seed: int) -> Loss:
    """dimensions: of the descriptors. classes: of the labels, from 0, for losses with a classifier.

    torch's own generator is neither used nor moved. Raises ValueError for a classifier of no classes, RecipeError for
    a similarity network of no dimensions.
    """
    match stage:
        case s.CrossEntropyStage() | s.JointStage():
            classifier = CrossEntropyLoss(
                dimensions,
                classes,
                seed,
                normalised=stage.normalised,
                temperature=stage.temperature,
                bias=stage.bias,
            )
            if isinstance(stage, s.CrossEntropyStage):
                return classifier
            return JointLoss(TripletLoss(stage.margin, stage.reduction), classifier, stage.alpha, stage.beta)
        case s.ArcFaceStage():
            return ArcFaceLoss(dimensions, classes, seed, margin=stage.margin, scale=stage.scale)
        case s.CosFaceStage():
            return CosFaceLoss(dimensions, classes, seed, margin=stage.margin, scale=stage.scale)
        case s.NonMetricStage():
            return NonMetricLoss(SimilarityNetwork(dimensions, stage.hidden, seed=seed), stage.margin, stage.reduction)
        case s.SiameseStage():
            return SiameseLoss(stage.margin, stage.form, stage.reduction)
        case s.DoubleMarginStage():
            return DoubleMarginLoss(stage.near, stage.far, stage.reduction)
        case s.QuartetStage():
            return QuartetLoss(stage.near, stage.far, stage.weight, stage.reduction)
        case s.TripletStage():
            return TripletLoss(stage.margin, stage.reduction)
        case s.QuadrupletStage():
            return QuadrupletLoss(stage.margin, stage.second, stage.reduction)
        case s.GroupGroupStage():
            return GroupGroupLoss(stage.threshold)
        case s.ListwiseApStage():
            return ListwiseApLoss(stage.bins, stage.low, stage.high, query_counts=stage.query_counts)
        case s.SmoothApStage():
            return SmoothApLoss(stage.temperature, query_counts=stage.query_counts)
        case s.EntropySiameseStage():
            return EntropySiameseLoss(stage.margin, stage.weight)
        case s.SolarStage():
            return SolarLoss(stage.margin, stage.weight)
