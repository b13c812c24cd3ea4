"""An autoencoder over descriptors: what a descriptor holds must suffice to make its photo again (survey §5.2.2).

Krizhevsky & Hinton, "Using Very Deep Autoencoders for Content-Based Image Retrieval", ESANN 2011, search by such codes;
Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", ICML 2008, make what was clean
from what was altered. The survey names two papers whose references its text lacks. The decoder is ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from resight.learning.datasets.augment import NONE
from resight.learning.datasets.pictures import Pictures, numbered
from resight.learning.embedding_task import EmbeddingTask
from resight.learning.losses.loss import Loss, Memory
from resight.learning.mining.batches import shuffled_batches
from resight.learning.model import Model
from resight.learning.task import Batch, Lesson, Tuples
from resight.learning.unlabelled.stages import AutoencoderStage
from resight.learning.unlabelled.task import PLACES

_FIRST = 4  # side of the decoder's first map
_LEAST = 16  # channels of its last one, at least


class ReconstructionLoss(Loss):
    """The mean squared error of pictures, in [0, 1], that a decoder makes of a batch's descriptors.

    The decoder: a linear layer to a map of 4×4; then, until it has the side wanted, twice as large by nearest
    neighbours, a 3×3 convolution to half as many channels (16 at least), and ReLU; and a 3×3 convolution to RGB.
    pictures: B×3×S×S uint8, of each row of the batch; set before it is learned from.
    Raises ValueError for a side that is not 4 doubled some times.
    """

    def __init__(self, dimension: int, side: int, channels: int, *, seed: int = 0) -> None:
        super().__init__()
        doublings = int(np.log2(max(side // _FIRST, 1)))
        if side != _FIRST << doublings:
            raise ValueError(f"side must be {_FIRST} doubled some times, not {side}")
        widths = [max(_LEAST, channels >> n) for n in range(doublings + 1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.start = nn.Linear(dimension, widths[0] * _FIRST**2)
            layers: list[nn.Module] = [nn.ReLU()]
            for before, after in pairwise(widths):
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            self.rest = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 3, padding=1))
        self.pictures: Tensor | None = None

    def decode(self, x: Tensor) -> Tensor:
        """B×3×S×S pictures, about [0, 1], of B×D ℓ2-normalised descriptors."""
        # A unit vector's entries are some D^-½, on which a fresh layer would make next to nothing.
        first = self.start(x * x.shape[1] ** 0.5)
        made: Tensor = self.rest(first.view(len(x), -1, _FIRST, _FIRST)) + 0.5
        return made

    def _loss(self, x: Tensor, labels: Tensor, tuples: Tuples | None, memory: Memory | None) -> Tensor:
        if self.pictures is None or len(self.pictures) != len(x):
            raise ValueError("pictures are set before a batch is learned from, one for each row")
        return (self.decode(x.float()) - self.pictures.to(x.device).float() / 255).square().mean()


class AutoencoderTask(EmbeddingTask):
    """An ``EmbeddingTask`` whose descriptors of altered photos are to make the photos again, as they are and small.

    Raises RecipeError as ``EmbeddingTask``.
    """

    def __init__(self, model: Model, lesson: Lesson, stage: AutoencoderStage) -> None:
        settings = lesson.settings
        super().__init__(model, replace(lesson, settings=settings.model_copy(update={"sampling": PLACES})))
        self.settings = settings
        self.learn_by(ReconstructionLoss(model.dimension, stage.side, stage.channels, seed=settings.seed))
        self.wanted = Pictures(lesson.photos.photos, side=stage.side, augment=NONE, seed=settings.seed)

    def batches(self, epoch: int) -> Sequence[Batch]:
        """All photos, once, in an order drawn anew."""
        settings = self.settings
        drawn = shuffled_batches(len(self.wanted), size=settings.batch, epoch=epoch, seed=settings.seed)
        return [Batch(places) for places in drawn]

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As ``EmbeddingTask``; the loss is the squared error of a value in [0, 1]."""
        if not isinstance(self.loss, ReconstructionLoss):
            raise ValueError("an autoencoder learns by reconstruction")
        (pictures,) = self.wanted.made([numbered(batch.places)], 0, self.settings.readers)
        self.loss.pictures = torch.stack(pictures)
        return super().backward(batch, epoch, step, propagate)
