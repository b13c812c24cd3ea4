"""What the trainer trains: a task makes batches, turns one into gradients, and says how good its network is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from resight.evaluation.labelled import LabelledSet
    from resight.learning.datasets.photos import TrainingSet
    from resight.learning.settings import Training
    from resight.recipes.recipe import Recipe

Tuples = tuple[Tensor, ...]
"""Rows of a batch, as pytorch-metric-learning has them: triplets (anchor, positive, negative), or pairs (anchor,
positive, anchor, negative), each (T,) int64."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step learns from.

    places: (B,) int64, of examples as the task numbers them. tuples: T×3 or T×4 int64 rows of ``places``, which the
    epoch's mining chose; None where all of the batch counts, or a miner chooses in it.
    """

    places: NDArray[np.int64]
    tuples: NDArray[np.int64] | None = None


class Task(Protocol):
    """What is trained. All that is random in it follows from its seed, the epoch and the step: nothing else."""

    module: nn.Module
    """All that learns; its ``state_dict`` is what a checkpoint keeps."""

    def groups(self) -> Sequence[Mapping[str, object]]:
        """Groups of parameters for a torch optimiser: ``params``, and ``lr`` as a factor of the run's rate."""
        ...

    def batches(self, epoch: int) -> Sequence[Batch]:
        """An epoch's batches, in order. May mine with the module as it is now; decided by its weights and the epoch."""
        ...

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """Add a batch's gradients to the parameters by ``propagate(loss)``, in as many pieces as it needs.

        Returns figures for the log, of which ``loss`` is one, as they were before the step.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Figures of the module as it is, the larger the better, of which the first decides; empty where there is
        nothing to validate on."""
        ...


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a run learns from. validation: of objects that ``photos`` has none of; None for none.

    sets: where several are learned from at once, each by its name, of which ``photos`` are joined. validations: then,
    in place of the one, sets to validate on by their names.
    """

    photos: "TrainingSet"
    validation: "LabelledSet | None"
    settings: "Training"
    sets: "Mapping[str, TrainingSet]" = field(default_factory=dict)
    validations: "Mapping[str, LabelledSet]" = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """One training of a scheme, which may have several.

    make: the task, of the recipe as the phase before left it. write: puts the recipe with what was learned into an
    empty folder; it needs no more than the recipe, the lesson and the task.
    """

    name: str
    make: "Callable[[Recipe, Lesson], Task]"
    write: "Callable[[Task, Recipe, Lesson, Path], None]"
