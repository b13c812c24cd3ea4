"""DELG in one training: the global descriptor teaches the network, the local features learn beside it (Cao, Araujo &
Sim, ECCV 2020, §3.3): neither attention nor autoencoder has gradients for the network.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.images.read import digest, load
from resight.learning.losses.classification import CrossEntropyLoss
from resight.learning.losses.make import make_loss
from resight.learning.losses.stages import ArcFaceStage
from resight.learning.model import Model, make_model
from resight.learning.schemes.delf_model import follow, head_features, head_rows, new_head
from resight.learning.schemes.delf_task import ClassifierTask, check_settings, classification
from resight.learning.schemes.delf_write import add_reduction, facts_of, put_head, without_learned
from resight.learning.schemes.embedding import whitening
from resight.learning.task import Lesson, Phase, Task
from resight.learning.write import check_goes, write_recipe
from resight.local.delf import DelfHead
from resight.networks.sketch import Sketch
from resight.networks.trunk import Tap
from resight.networks.weights import file_sha256
from resight.recipes.local_stages import DelfFeatures
from resight.recipes.network_stages import GlobalStage
from resight.recipes.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from resight.learning.settings import Training

_ARCFACE = ArcFaceStage(kind="arcface", margin=0.1, scale=math.sqrt(2048))  # ``training/train.py`` of the authors' code


class Beside:
    """The map of a further layer of a network, without gradients, of the last pictures that went through it."""

    def __init__(self, network: nn.Module, tap: Tap) -> None:
        self._tap = tap
        self._last: Tensor | None = None
        network.get_submodule(tap.layer.module).register_forward_hook(self._take)

    def take(self, height: int, width: int) -> Tensor:
        """B×C×h×w of pictures of height × width, once. Raises RecipeError where the pass ended before the layer."""
        last, self._last = self._last, None
        if last is None:
            raise RecipeError(
                f"layer {self._tap.layer.name} of [local] comes after that of [global], and takes no part in the "
                "descriptor: choose an earlier one"
            )
        return self._tap.shaped(last, height, width).float()

    def _take(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._last = output.detach().clone()  # what follows may work in place


class JointTask(ClassifierTask):
    """A recipe's global model and a head on a layer of it; the losses are added."""

    figures = ("loss", "accuracy", "reconstruction", "attention", "global")

    def __init__(self, lesson: Lesson, model: Model, head: DelfHead, tap: Tap) -> None:
        settings, classes = lesson.settings, len(lesson.photos.classes)
        stage = classification(settings, _ARCFACE)
        self.loss = make_loss(stage, dimensions=model.dimension, classes=classes, seed=settings.seed)
        self.classifier = CrossEntropyLoss(tap.layer.channels, classes, settings.seed)
        head.requires_grad_(True)
        parts: dict[str, nn.Module] = {"trunk": model, "head": head, "classifier": self.classifier, "loss": self.loss}
        super().__init__(lesson, model, parts)
        self.model, self.head = model, head
        self._beside = Beside(model.trunk.network, tap)

    def groups(self) -> Sequence[Mapping[str, object]]:
        """The model's own, and the rest at ``learns.head_rate``."""
        return [*self.model.groups(), *self.groups_beyond()]

    def embed(self, pictures: Tensor) -> Tensor:
        """The global descriptors, n×D."""
        descriptors: Tensor = self.model(pictures)
        return descriptors

    def features(self, pictures: Tensor) -> Tensor:
        """n×(D + …): the descriptors, then ``head_features``."""
        descriptors = self.embed(pictures)
        maps = self._beside.take(pictures.shape[2], pictures.shape[3])
        return torch.cat([descriptors, head_features(self.head, maps)], dim=1)

    def rows(self, features: Tensor, labels: Tensor) -> Tensor:
        """n×(5 + 2H): ``head_rows`` with the sum of both losses first, and each by itself fourth and fifth."""
        dimension = self.model.dimension
        vector: Tensor = self.loss(features[:, :dimension], labels)
        rows = head_rows(features[:, dimension:], labels, self.classifier)
        both = torch.stack([rows[:, 0], vector.expand(len(rows))], dim=1)
        return torch.cat([both.sum(dim=1, keepdim=True), rows[:, 1:3], both.detach(), rows[:, 3:]], dim=1)

    def finish(self, rows: Tensor) -> None:
        follow(self.head.attention, rows[:, len(self.figures) :])


def phases(recipe: Recipe, stage: DelfFeatures, settings: "Training") -> Sequence[Phase]:
    """One. Raises RecipeError where the settings do not suit it, or the recipe's stages do not go with it."""
    check_settings(settings, "DELG", vector=True)
    check_goes(recipe, settings.learns)
    classification(settings, _ARCFACE)
    vector, local = _stages(recipe)
    whitening(vector, settings)
    if vector.weights and local.weights and file_sha256(vector.weights) != file_sha256(local.weights):
        raise RecipeError(
            f"recipe {recipe.name}: DELG trains one network, but [global] has the weights {vector.weights} and [local] "
            f"others, {local.weights}: name one file in both, or give it by --weights to a recipe that names none"
        )
    return [Phase("delg", make, write)]


def make(recipe: Recipe, lesson: Lesson) -> JointTask:
    """The network is that of [global]. Raises as ``make_model``, and where [local] reads a layer behind [global]'s."""
    vector, local = _stages(recipe)
    settings = lesson.settings
    model = make_model(vector, weights=None, learns=settings.learns, recipe_name=recipe.name, seed=settings.seed)
    (tap,) = Sketch(local.network).taps((local.layer,))
    if tap.layer.kind != "map" or not tap.layer.module:
        raise RecipeError(
            f"layer {local.layer} of [local] is no map inside {local.network}: choose a block before its end"
        )
    reduced = local.dimensions if local.reduce == "none" else None
    head = new_head(tap.layer.channels, reduced, settings.seed)
    task = JointTask(lesson, model, head, tap)
    side = -(-max(model.least, 64) // model.multiple) * model.multiple
    with torch.no_grad():
        task.features(torch.zeros(1, 3, side, side, dtype=torch.uint8))  # says whether the layer is on the way
    return task


def write(task: Task, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    """The recipe with one network for both, the head, and what reduces and whitens them."""
    if not isinstance(task, JointTask):
        raise ValueError("the task is another's")
    photos = lesson.photos
    sketch = PhotoSketch.of(digest(load(str(path))) for path in dict.fromkeys(p.path for p in photos.photos))
    facts = facts_of(lesson, loss=classification(lesson.settings, _ARCFACE))
    write_recipe(task.model, without_learned(recipe, network=True), into, trained=facts, photos=sketch)
    put_head(into, task.head, facts, network="global")
    add_reduction(load_recipe(into), into, photos, lesson.settings.seed)
    how = whitening(_stages(recipe)[0], lesson.settings)
    if how != "none":
        from resight.learning.whiten import whiten

        whiten(into, photos, how=how, seed=lesson.settings.seed)


def _stages(recipe: Recipe) -> tuple[GlobalStage, DelfFeatures]:
    if recipe.global_ is None or not isinstance(recipe.local, DelfFeatures):
        raise ValueError("DELG has [global] and [local]")
    return recipe.global_, recipe.local
