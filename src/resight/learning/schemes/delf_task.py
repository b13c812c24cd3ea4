"""What the tasks of local features share: a network that gives maps, photos with labels, one vector an image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.learning.losses.stages import ArcFaceStage, CosFaceStage, CrossEntropyStage
from resight.learning.mining.batches import batches_of
from resight.learning.schemes.delf_photos import Piece, feed_of, validation_of
from resight.learning.schemes.reranking_pieces import backward_in_pieces
from resight.learning.sizes import Sizes, embed_pictures
from resight.learning.task import Batch, Lesson
from resight.networks.trunk import Trunk

if TYPE_CHECKING:
    from resight.learning.settings import Training


Classification = CrossEntropyStage | ArcFaceStage | CosFaceStage


class Network(Sizes, Protocol):
    """What sizes of pictures a network takes, and where it is."""

    trunk: Trunk


class Parts(nn.ModuleDict):
    """Modules that stay in evaluation mode while they learn: batch normalisation and dropout as for describing."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class LocalTask(ABC):
    """A ``Task`` on photos.

    parts: all that learns or is kept, the network under ``trunk``.
    share: of the settings' budget, for the pictures that are learned from.
    """

    def __init__(self, lesson: Lesson, network: Network, parts: Mapping[str, nn.Module], share: float = 1.0) -> None:
        self.settings = lesson.settings
        self.network = network
        self.module: nn.Module = Parts(parts).train(False)
        self.labels = torch.from_numpy(lesson.photos.labels)
        self.feed = feed_of(lesson.photos.photos, lesson.settings, network, share=share)
        held_out = lesson.validation
        self._validation = None if held_out is None else validation_of(held_out, lesson.settings, network)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.trunk.mean.device

    def groups(self) -> Sequence[Mapping[str, object]]:
        """The network at the run's rate, what follows it at ``learns.head_rate`` times that."""
        return [
            *parameter_groups([module for name, module in self.module.named_children() if name == "trunk"], 1.0),
            *self.groups_beyond(),
        ]

    def groups_beyond(self) -> list[dict[str, object]]:
        """What follows the network."""
        rest = [module for name, module in self.module.named_children() if name != "trunk"]
        return parameter_groups(rest, self.settings.learns.head_rate)

    def batches(self, epoch: int) -> Sequence[Batch]:
        """As ``sampling`` has them."""
        drawn = batches_of(self.settings.sampling, self.labels.numpy(), epoch=epoch, seed=self.settings.seed)
        return [Batch(places) for places in drawn]

    @abstractmethod
    def embed(self, pictures: Tensor) -> Tensor:
        """n×3×H×W to n×D, ℓ2-normalised: what the module is validated by."""

    def validate(self) -> dict[str, float]:
        """mAP by ``embed``; nothing where there is nothing held out."""
        return {} if self._validation is None else {"mAP": self._validation.mean_average_precision(self.embed)}

    def embed_all(self, pictures: Sequence[Tensor]) -> Tensor:
        """``embed`` of pictures of several sizes, n×D, in order."""
        return embed_pictures(self.embed, pictures, self.network.least)

    def labels_of(self, piece: Piece) -> Tensor:
        """(n,)."""
        return self.labels[[place for place, _ in piece]].to(self.device)


class ClassifierTask(LocalTask):
    """A task whose loss is a mean over photos, so that a batch's gradient is a sum over its pieces."""

    figures: tuple[str, ...] = ("loss",)
    """Names of the first columns of ``rows``."""

    @abstractmethod
    def features(self, pictures: Tensor) -> Tensor:
        """n×3×H×W to n×F: all that is needed of the pictures for ``rows``."""

    @abstractmethod
    def rows(self, features: Tensor, labels: Tensor) -> Tensor:
        """A row for each photo: its loss, then figures without gradient."""

    def finish(self, rows: Tensor) -> None:
        """Take note of a batch's rows, B×F, of all processes."""

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As the protocol has it."""
        pieces = self.feed.pieces(batch.places)
        coming = self.feed.own(pieces, epoch)

        def rows_of(piece: Piece) -> Tensor:
            features = embed_pictures(self.features, next(coming), self.network.least)
            return self.rows(features, self.labels_of(piece))

        rows = backward_in_pieces(pieces, rows_of, len(batch.places), propagate, self.device)
        self.finish(rows)
        return dict(zip(self.figures, rows.mean(dim=0).tolist(), strict=False))


def parameter_groups(modules: Iterable[nn.Module], factor: float) -> list[dict[str, object]]:
    """What of the modules learns, at so many times the run's rate; biases and norms without weight decay."""
    learning = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, object]] = [{"params": [p for p in learning if p.ndim > 1], "lr": factor}]
    groups.append({"params": [p for p in learning if p.ndim <= 1], "lr": factor, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def classification(settings: "Training", default: Classification) -> Classification:
    """The settings' loss of a network that learns to classify; where they name none, the default.

    Raises RecipeError where it is none of a classifier.
    """
    if "loss" not in settings.model_fields_set:
        return default
    if not isinstance(settings.loss, Classification):
        raise RecipeError(
            f"DELF learns by classification, not by {settings.loss.kind}: say loss.kind = cross-entropy, arcface or "
            "cosface, or leave the loss out"
        )
    return settings.loss


def check_settings(settings: "Training", method: str, *, vector: bool = False) -> None:
    """Raises RecipeError where settings ask for what the training of local features does not have.

    vector: whether the recipe's global descriptor learns too.
    """
    learns = settings.learns
    unused: dict[str, object] = {"views": settings.views, "memory": settings.memory, "learns.dropout": learns.dropout}
    unused |= {"learns.hash_bits": learns.hash_bits, "adversarial": settings.adversarial}
    if not vector:
        unused |= {"learns.exponent": learns.exponent, "learns.projection": learns.projection}
    if given := [name for name, value in unused.items() if value]:
        raise RecipeError(f"{method} is trained without {', '.join(given)}: leave that out")
