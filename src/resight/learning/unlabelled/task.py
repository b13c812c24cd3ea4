"""Training of descriptors without labels: before an epoch photos are mined, and what that finds is learned from."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from resight.errors import RecipeError
from resight.learning.datasets.augment import NONE
from resight.learning.datasets.pictures import Pictures
from resight.learning.embedding_task import EmbeddingTask
from resight.learning.losses.fidelity import FidelityLoss
from resight.learning.mining.batches import batches_of, shuffled_batches
from resight.learning.mining.stages import Sampling
from resight.learning.model import Model
from resight.learning.task import Batch, Lesson
from resight.learning.unlabelled.gan import AdversarialLoss
from resight.learning.unlabelled.mined import (
    Labelling,
    Lasting,
    Mined,
    Targets,
    lasting,
    load_mined,
    mine,
    save_mined,
)
from resight.learning.unlabelled.neighbour_mean import TargetLoss
from resight.learning.unlabelled.pools import Pools, batches_of_pools
from resight.learning.unlabelled.settings import UnlabelledTraining
from resight.learning.unlabelled.stages import (
    GanStage,
    KmeansStage,
    MiningStage,
    NeighbourMeanStage,
    PoolsStage,
    SiftStage,
)

MINED = "mined"  # in a run's folder
PLACES = Sampling(kind="shuffled")
"""Of batches that are checked when they are made, as labels are not known before."""


class UnlabelledTask(EmbeddingTask):
    """An ``EmbeddingTask`` whose pairs, labels or targets come from the photos themselves.

    folder: of the run, which keeps what was mined last in ``mined``: processes that train together read it there, and
    so does a run that goes on. The lesson's settings are an ``UnlabelledTraining``.
    Raises RecipeError as ``EmbeddingTask``.
    """

    settings: UnlabelledTraining

    def __init__(self, model: Model, lesson: Lesson, folder: Path) -> None:
        if not isinstance(lesson.settings, UnlabelledTraining):
            raise ValueError("settings without a table unlabelled")
        settings = lesson.settings
        if not isinstance(settings.unlabelled, MiningStage):
            raise ValueError(f"unlabelled = {settings.unlabelled.kind} mines nothing")
        self.stage = settings.unlabelled
        count = self.stage.clusters if isinstance(self.stage, KmeansStage) else 0
        photos = replace(lesson.photos, classes=tuple(f"cluster {n}" for n in range(count)))
        super().__init__(
            model, replace(lesson, photos=photos, settings=settings.model_copy(update={"sampling": PLACES}))
        )
        self.settings = settings
        self.photos = lesson.photos
        self.mined_in = folder / MINED
        self._mined: tuple[int, Mined] | None = None
        self._lasting: Lasting = None
        if self.plain is None:
            made = self.pictures
            self.plain = Pictures(
                lesson.photos.photos,
                side=made.side,
                multiple=made.multiple,
                fit=settings.fit,
                augment=NONE,
                seed=settings.seed,
                budget=0,
            )
        if isinstance(self.stage, NeighbourMeanStage):
            self.learn_by(TargetLoss())
        elif isinstance(self.stage, SiftStage):
            self.learn_by(FidelityLoss(self.loss, self.stage.fidelity))
        elif isinstance(self.stage, GanStage):
            judge, temperature = self.stage.judge, self.stage.temperature
            self.learn_by(AdversarialLoss(model.dimension, judge, temperature, seed=settings.seed))

    def batches(self, epoch: int) -> Sequence[Batch]:
        """Of what is mined for the epoch: tuples of pools, or batches of photos by their pseudo-labels."""
        begun, found = self._since(epoch), self._known(epoch)
        if found is None:
            if self._lasting is None:
                self._lasting = lasting(self.stage, self.photos.photos, self.photos.file, seed=self.settings.seed)
            found = mine(
                self.stage,
                self._describe(np.arange(len(self.photos.photos))),
                self.photos.photos,
                self.photos.file,
                self._last(),
                known=self._lasting,
                scratch=self._folder(),
                epoch=epoch,
                seed=self.settings.seed,
            )
            self._keep(begun, found)
        return self._batches(found, epoch)

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As ``EmbeddingTask``, by what was mined for the epoch."""
        found = self._known(epoch)
        if found is None:
            raise RecipeError(f"{self._file(self._since(epoch))}: what was mined is missing; train without --resume")
        self._labels = found.labels if isinstance(found, Labelling) else self.photos.labels
        if isinstance(self.loss, TargetLoss) and isinstance(found, Targets):
            self.loss.targets = found.x
        if isinstance(self.loss, AdversarialLoss) and isinstance(self.stage, GanStage):
            self.loss.leads = step < self.stage.lead
        figures = super().backward(batch, epoch, step, propagate)
        return {**figures, **self.loss.figures} if isinstance(self.loss, AdversarialLoss) else figures

    def _batches(self, found: Mined, epoch: int) -> Sequence[Batch]:
        settings = self.settings
        seed = settings.seed
        if isinstance(found, Pools):
            if not isinstance(self.stage, PoolsStage):
                raise ValueError("pools are of another method")
            how = self.stage.model_dump(include=set(PoolsStage.model_fields) - {"every"})
            return batches_of_pools(found, epoch=epoch, seed=seed, **how)
        if isinstance(found, Targets):
            return [Batch(p) for p in shuffled_batches(len(found.x), size=settings.batch, epoch=epoch, seed=seed)]
        counts = np.bincount(found.labels[found.labels >= 0])
        able = np.flatnonzero((found.labels >= 0) & (counts[found.labels] > 1))
        drawn = batches_of(settings.sampling, found.labels[able], epoch=epoch, seed=seed)
        return [Batch(able[places]) for places in drawn]

    def _since(self, epoch: int) -> int:
        """The epoch whose mining an epoch learns from."""
        every = self.stage.every
        return epoch - epoch % every if every else 0

    def _file(self, epoch: int) -> Path:
        return self.mined_in / f"{epoch:06}.safetensors"

    def _known(self, epoch: int) -> Mined | None:
        """What was mined for an epoch; None where that is yet to be done, which is in the epoch it begins with."""
        begun = self._since(epoch)
        if self._mined is not None and self._mined[0] == begun:
            return self._mined[1]
        if self._file(begun).is_file():
            self._mined = begun, load_mined(self._file(begun))
            return self._mined[1]
        if epoch != begun:
            raise RecipeError(f"{self._file(begun)}: what was mined is missing; train again without --resume")
        return None

    def _last(self) -> Mined | None:
        """What was mined before."""
        if self._mined is not None:
            return self._mined[1]
        files = sorted(self.mined_in.glob("*.safetensors"))
        return load_mined(files[-1]) if files else None

    def _folder(self) -> Path:
        """``mined_in``, which is there afterwards."""
        try:
            self.mined_in.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecipeError(f"{self.mined_in}: cannot be made: {error.strerror}; choose another --into") from error
        return self.mined_in

    def _keep(self, begun: int, found: Mined) -> None:
        """Write it, and then remove what was before."""
        self._folder()
        save_mined(self._file(begun), found)
        self._mined = begun, found
        for file in self.mined_in.glob("*.safetensors"):
            if file != self._file(begun):
                file.unlink(missing_ok=True)
