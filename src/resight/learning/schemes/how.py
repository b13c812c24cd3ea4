"""HOW from labels: local features learned by the global descriptor they make (Tolias, Jenicek & Chum, ECCV 2020).

Contrastive loss, hard negatives mined anew each epoch; the reduction is a PCA-whitening of the network's features as
learning starts, and does not learn (code: gtolias/how, ``how/stages/train.py``).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.describe.local_features import load_network_features
from resight.errors import RecipeError
from resight.learning.caching import backward
from resight.learning.losses.make import make_loss
from resight.learning.losses.stages import LossStage, NonMetricStage, QuartetStage, SiameseStage
from resight.learning.mining.in_batch import mine
from resight.learning.mining.pool import mine_pool
from resight.learning.mining.stages import MinerStage, PoolStage
from resight.learning.schemes.delf_photos import feed_of
from resight.learning.schemes.delf_task import LocalTask, check_settings
from resight.learning.schemes.delf_trunk import MapTrunk
from resight.learning.schemes.delf_write import facts_of, fitted_on, images_of, set_reduction, write_local
from resight.learning.schemes.how_model import HowGlobal
from resight.learning.task import Batch, Lesson, Phase, Task
from resight.projection.projection import Projection
from resight.recipes.local_stages import HowFeatures
from resight.recipes.recipe import Recipe

if TYPE_CHECKING:
    from resight.learning.settings import Training


class HowTask(LocalTask):
    """The network, by ``HowGlobal`` of its maps at one scale. projection: the reduction."""

    def __init__(self, lesson: Lesson, trunk: MapTrunk, projection: Projection) -> None:
        settings = lesson.settings
        loss = make_loss(
            loss_stage(settings),
            dimensions=projection.dimension,
            classes=len(lesson.photos.classes),
            seed=settings.seed,
        )
        head = HowGlobal(projection)
        super().__init__(lesson, trunk, {"trunk": trunk, "head": head, "loss": loss}, share=0.5)
        self.trunk = trunk
        self.head, self.loss, self.projection, self.miner = head, loss, projection, miner_stage(settings)
        self._plain = feed_of(lesson.photos.photos, settings, trunk, plain=True, share=0.5)

    def embed(self, pictures: Tensor) -> Tensor:
        """n×3×H×W to n×K."""
        descriptors: Tensor = self.head(self.trunk(pictures)[0])
        return descriptors

    def batches(self, epoch: int) -> Sequence[Batch]:
        """Tuples mined with the network as it is, of pictures without augmentation; or as ``sampling`` has them."""
        if not isinstance(self.miner, PoolStage):
            return super().batches(epoch)
        settings = self.miner.model_dump(exclude={"kind"})
        return mine_pool(self._describe, self.labels.numpy(), epoch=epoch, seed=self.settings.seed, **settings)

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As the protocol has it, by gradient caching: one piece's graph is in memory at a time."""
        labels = self.labels[batch.places].to(self.device)
        seed = self.settings.seed

        def loss_of(x: Tensor) -> Tensor:
            tuples = None
            if batch.tuples is not None:
                tuples = tuple(torch.from_numpy(batch.tuples).to(x.device).unbind(dim=1))
            elif self.loss.takes_tuples:
                tuples = mine(self.miner, x, labels, seed=seed, step=step)
            value: Tensor = self.loss(x, labels, tuples)
            return value

        pieces = self.feed.pieces(batch.places)
        feed = partial(self.feed.made, epoch=epoch)
        passed = backward(pieces, self.embed_all, loss_of, propagate, seed=seed + step, device=self.device, feed=feed)
        return {"loss": passed.loss}

    @torch.no_grad()
    def _describe(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        pieces = self._plain.pieces(places)
        return np.concatenate([self.embed_all(made).float().cpu().numpy() for made in self._plain.made(pieces, 0)])


def phases(recipe: Recipe, settings: "Training") -> Sequence[Phase]:
    """One. Raises RecipeError where the recipe has no HOW, or the settings do not suit it."""
    _stage(recipe)
    check_settings(settings, "HOW")
    loss, miner = loss_stage(settings), miner_stage(settings)
    if isinstance(loss, NonMetricStage | QuartetStage):
        raise RecipeError(
            f"HOW does not learn by loss.kind = {loss.kind}: say siamese, or another of pairs or triplets"
        )
    made = make_loss(loss, dimensions=2, classes=2, seed=0)
    if isinstance(miner, PoolStage) and not made.takes_tuples:
        raise RecipeError(
            f"loss.kind = {loss.kind} is of a whole batch, not of tuples mined in a pool: say miner.kind = all, or "
            "loss.kind = siamese"
        )
    return [Phase("how", _make, _write)]


def loss_stage(settings: "Training") -> LossStage:
    """The settings' loss; where they name none, the authors' contrastive one, of margin 0.8."""
    if "loss" in settings.model_fields_set:
        return settings.loss
    return SiameseStage(kind="siamese", form="cirtorch", margin=0.8)


def miner_stage(settings: "Training") -> MinerStage:
    """The settings' miner; where they name none, the authors': five hard negatives of each of 2000 queries."""
    if "miner" in settings.model_fields_set:
        return settings.miner
    return PoolStage(kind="pool", form="pairs")


def _make(recipe: Recipe, lesson: Lesson) -> Task:
    stage = _stage(recipe)
    trunk = MapTrunk.of(stage)
    trunk.learn(lesson.settings.learns.layers)
    return HowTask(lesson, trunk, _reduction(recipe, stage, lesson))


def _reduction(recipe: Recipe, stage: HowFeatures, lesson: Lesson) -> Projection:
    """The recipe's own, or, as in the publication, one of the network as it is, learned at one scale."""
    own = load_network_features(stage).projection
    if own is not None:
        return own
    features = load_network_features(stage.model_copy(update={"scales": (1.0,)}))
    images = images_of(lesson.photos, recipe.image.max_side, lesson.settings.seed)
    return features.fit(images, fitted_on=fitted_on(lesson.photos))


def _write(task: Task, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    if not isinstance(task, HowTask):
        raise ValueError("the task is another's")
    facts = facts_of(lesson, loss=loss_stage(lesson.settings), miner=task.miner)
    written = write_local(recipe, into, "how", facts, trunk=task.trunk)
    # It stays what the network learned with, but is now of other descriptors.
    descriptor = load_network_features(_stage(written)).raw_fingerprint
    replace(task.projection, descriptor=descriptor).save(into / "local-reduction.safetensors")
    set_reduction(into, "local-reduction.safetensors")


def _stage(recipe: Recipe) -> HowFeatures:
    if not isinstance(recipe.local, HowFeatures):
        raise RecipeError(f'recipe {recipe.name} has no HOW to train: give it [local] with detector = "how"')
    return recipe.local
