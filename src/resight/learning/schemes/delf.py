"""DELF and DELG from labels (Noh et al., ICCV 2017; Cao, Araujo & Sim, ECCV 2020; survey §4.2.2, §5.1.1).

The network learns to classify; then, the network held fixed, a scorer learns which of its features a classifier needs;
then, for a recipe that does not reduce by PCA, DELG's autoencoder learns to reduce them, and the scorer with it.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from resight.errors import RecipeError
from resight.learning.losses.classification import CrossEntropyLoss
from resight.learning.losses.make import make_loss
from resight.learning.losses.stages import CrossEntropyStage
from resight.learning.schemes import delf_joint
from resight.learning.schemes.delf_model import (
    attend,
    follow,
    head_features,
    head_rows,
    new_head,
)
from resight.learning.schemes.delf_task import ClassifierTask, check_settings, classification
from resight.learning.schemes.delf_trunk import MapTrunk
from resight.learning.schemes.delf_write import add_reduction, facts_of, write_local
from resight.learning.task import Lesson, Phase, Task
from resight.local.delf import DelfHead, read_delf_head
from resight.pooling.sum_pooling import unit
from resight.recipes.local_stages import DelfFeatures
from resight.recipes.recipe import Recipe

if TYPE_CHECKING:
    from resight.learning.settings import Training

_SOFTMAX = CrossEntropyStage(kind="cross-entropy")


class ClassificationTask(ClassifierTask):
    """The network, by a classifier on the mean of its features over positions, as DELF's code has it."""

    def __init__(self, lesson: Lesson, trunk: MapTrunk) -> None:
        settings, classes = lesson.settings, len(lesson.photos.classes)
        channels = trunk.layers[0].channels
        loss = make_loss(classification(settings, _SOFTMAX), dimensions=channels, classes=classes, seed=settings.seed)
        super().__init__(lesson, trunk, {"trunk": trunk, "classifier": loss})
        self.trunk = trunk
        self.classifier = loss

    def embed(self, pictures: Tensor) -> Tensor:
        """ℓ2-normalised means, n×C."""
        return unit(self.features(pictures))

    def features(self, pictures: Tensor) -> Tensor:
        """Means over positions, n×C."""
        maps: Tensor = self.trunk(pictures)[0]
        return maps.float().mean(dim=(2, 3))

    def rows(self, features: Tensor, labels: Tensor) -> Tensor:
        """n×1, each the piece's mean loss, whose gradients sum up to the batch's."""
        loss: Tensor = self.classifier(features, labels)
        return loss.expand(len(labels))[:, None]


class AttentionTask(ClassifierTask):
    """A head, the network held fixed: cross-entropy of what it pools, and, with an autoencoder, λ·reconstruction."""

    figures = ("loss", "accuracy", "reconstruction")

    def __init__(self, lesson: Lesson, trunk: MapTrunk, head: DelfHead) -> None:
        settings, classes = lesson.settings, len(lesson.photos.classes)
        self.classifier = CrossEntropyLoss(trunk.layers[0].channels, classes, settings.seed)
        trunk.requires_grad_(False)
        head.requires_grad_(True)
        super().__init__(lesson, trunk, {"trunk": trunk, "head": head, "classifier": self.classifier})
        self.trunk = trunk
        self.head = head

    def embed(self, pictures: Tensor) -> Tensor:
        """ℓ2-normalised pooled features, n×C."""
        return unit(attend(self.head, self._maps(pictures)).pooled)

    def features(self, pictures: Tensor) -> Tensor:
        """``head_features``."""
        return head_features(self.head, self._maps(pictures))

    def rows(self, features: Tensor, labels: Tensor) -> Tensor:
        """``head_rows``."""
        return head_rows(features, labels, self.classifier)

    def finish(self, rows: Tensor) -> None:
        follow(self.head.attention, rows[:, len(self.figures) :])

    @torch.no_grad()
    def _maps(self, pictures: Tensor) -> Tensor:
        maps: Tensor = self.trunk(pictures)[0].float()
        return maps


def phases(recipe: Recipe, settings: "Training") -> Sequence[Phase]:
    """classification, unless only the head is to learn; attention; autoencoder, for ``reduce = "none"``.

    One phase, delg, where [global] is a descriptor of the same network. Raises RecipeError where the recipe has no
    DELF, or the settings do not suit it.
    """
    stage = _stage(recipe)
    if recipe.global_ is not None and recipe.global_.network == stage.network:
        return delf_joint.phases(recipe, stage, settings)
    check_settings(settings, "DELF")
    classification(settings, _SOFTMAX)
    made = []
    if settings.learns.layers != "head":
        made.append(Phase("classification", _make_classification, _write_classification))
    made.append(Phase("attention", partial(_make_head, False), _write_head))
    if stage.reduce == "none":
        made.append(Phase("autoencoder", partial(_make_head, True), _write_head))
    return made


def _make_classification(recipe: Recipe, lesson: Lesson) -> Task:
    trunk = MapTrunk.of(_stage(recipe))
    trunk.learn(lesson.settings.learns.layers)
    return ClassificationTask(lesson, trunk)


def _write_classification(task: Task, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    if not isinstance(task, ClassificationTask):
        raise ValueError("the task is another's")
    loss = classification(lesson.settings, _SOFTMAX)
    write_local(recipe, into, "classification", facts_of(lesson, loss=loss), trunk=task.trunk)


def _make_head(reduces: bool, recipe: Recipe, lesson: Lesson) -> Task:
    """reduces: with an autoencoder; its scorer starts as the recipe's, if that has one."""
    stage = _stage(recipe)
    trunk = MapTrunk.of(stage)
    head = new_head(trunk.layers[0].channels, stage.dimensions if reduces else None, lesson.settings.seed)
    if reduces and stage.head:
        given = read_delf_head(stage.head)
        head = DelfHead(given.attention, given.autoencoder or head.autoencoder)
    return AttentionTask(lesson, trunk, head)


def _write_head(task: Task, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    if not isinstance(task, AttentionTask):
        raise ValueError("the task is another's")
    # Weights that were downloaded are written too, so that the folder is all there is.
    trunk = None if _stage(recipe).weights else task.trunk
    phase = "attention" if task.head.autoencoder is None else "autoencoder"
    written = write_local(recipe, into, phase, facts_of(lesson, loss=_SOFTMAX), trunk=trunk, head=task.head)
    add_reduction(written, into, lesson.photos, lesson.settings.seed)


def _stage(recipe: Recipe) -> DelfFeatures:
    if not isinstance(recipe.local, DelfFeatures):
        raise RecipeError(f'recipe {recipe.name} has no DELF to train: give it [local] with detector = "delf"')
    return recipe.local
