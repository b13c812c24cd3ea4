"""Losses of descriptors with labels (survey §5.1): one file an idea, and the one that a recipe's table names."""

from resight.learning.losses.loss import Loss, Memory
from resight.learning.losses.make import make_loss
from resight.learning.losses.stages import LossStage

__all__ = ["Loss", "LossStage", "Memory", "make_loss"]
