"""Training of descriptors: a recipe's network, a loss of labels, and what chooses pairs and triplets (survey §5.1)."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.describe.describer import Describer
from resight.errors import RecipeError
from resight.learning.adversarial import harden
from resight.learning.caching import backward
from resight.learning.datasets.augment import NONE
from resight.learning.datasets.pictures import Copy, Pictures, numbered
from resight.learning.losses import Loss, make_loss
from resight.learning.mining.batches import batches_of, joint_batches, replayed_batches
from resight.learning.mining.in_batch import mine
from resight.learning.mining.memory import CrossBatchMemory
from resight.learning.mining.pool import mine_pool
from resight.learning.mining.stages import AllStage, PoolStage
from resight.learning.model import Model
from resight.learning.old import OldTerms, check_old, old_vectors
from resight.learning.ranks import ranks
from resight.learning.settings import Training
from resight.learning.sizes import embed_pictures, side_for
from resight.learning.task import Batch, Lesson, Tuples
from resight.learning.validate import Validation
from resight.learning.views import KeptViews


class EmbeddingTask:
    """The model and the loss, of a lesson's photos. ``keep_in`` says where views may be kept, before it is trained.

    old: of the recipe that settings.old names, which describes the photos at once.
    Raises RecipeError where loss, miner and memory do not go together, or the photos are too few for a batch.
    """

    def __init__(self, model: Model, lesson: Lesson, old: Describer | None = None) -> None:
        self.model, self.settings, self.photos = model, lesson.settings, lesson.photos
        settings = self.settings
        self.memory: CrossBatchMemory | None = None
        if settings.memory is not None:
            self.memory = CrossBatchMemory(settings.memory.size, model.dimension, warm=settings.memory.warm)
        self.learn_by(made_loss(settings, model.dimension, len(lesson.photos.classes)))
        side = side_for(settings.side, model)
        made: dict[str, Any] = {"side": side, "multiple": model.multiple, "fit": settings.fit, "seed": settings.seed}
        mines = isinstance(settings.miner, PoolStage)
        budget = (settings.budget << 20) // (3 if mines else 2)
        self._room = budget
        self.pictures = Pictures(lesson.photos.photos, augment=settings.augment, budget=budget, **made)
        self.plain = Pictures(lesson.photos.photos, augment=NONE, budget=budget, **made) if mines else None
        held_out = {**({} if lesson.validation is None else {"": lesson.validation}), **lesson.validations}
        self._validations = {
            name: Validation(
                labelled,
                side=side_for(settings.validation_side or settings.side, model),
                multiple=model.multiple,
                least=model.least,
                chunk=settings.chunk,
                readers=settings.readers,
            )
            for name, labelled in held_out.items()
        }
        self._labels = lesson.photos.labels
        self._old = None if old is None else _old_terms(old, settings, lesson, model.dimension)
        self._views: KeptViews | None = None
        if not mines:
            self._drawn(0)  # says what there is too little of

    def learn_by(self, loss: Loss) -> None:
        """Take a loss, before anything is trained."""
        self.loss = loss
        parts: dict[str, nn.Module] = {"model": self.model, "loss": loss}
        if self.memory is not None:
            parts["memory"] = self.memory
        self.module: nn.Module = nn.ModuleDict(parts)
        self.original = copy.deepcopy(self.model).requires_grad_(False) if loss.takes_original else None

    def keep_in(self, folder: Path) -> None:
        """Keep views of the photos in a folder, if settings ask for it and the network's beginning is frozen.

        Where photos are described to mine them, one view more is of them as they are.
        Raises RecipeError where all of the network learns, or the folder has no room.
        """
        settings, model = self.settings, self.model
        if not settings.views:
            return
        if not model.splits:
            raise RecipeError(
                f"views = {settings.views}, but nothing of {model.network} before what learns can be computed once: "
                "say learns.layers = head, or a late layer, or views = 0"
            )
        first = self._prefix(np.zeros(1, np.int64), 0)
        folder.mkdir(parents=True, exist_ok=True)
        self._views = KeptViews(
            folder / "views.npy",
            self._prefix,
            views=settings.views + self._keeps_plain,
            photos=len(self.photos.photos),
            shape=first.shape[1:],
            dtype=settings.views_dtype,
            chunk=settings.chunk,
        )

    def groups(self) -> Sequence[Mapping[str, object]]:
        """The model's, and the loss's own parameters, which are new, at the rate of the head."""
        own = [x for x in self.loss.parameters() if x.requires_grad]
        rate = self.settings.learns.head_rate
        extra: list[Mapping[str, object]] = [
            {"name": "loss", "params": [x for x in own if x.ndim > 1], "lr": rate},
            {"name": "loss without decay", "params": [x for x in own if x.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        ]
        return [*self.model.groups(), *(group for group in extra if group["params"])]

    def batches(self, epoch: int) -> Sequence[Batch]:
        """By the sampling; or, mined over a pool, of tuples that are hard for the model as it is."""
        settings = self.settings
        if isinstance(settings.miner, PoolStage):
            how = settings.miner.model_dump(exclude={"kind"})
            return mine_pool(self._describe, self._labels, epoch=epoch, seed=settings.seed, **how)
        return [Batch(places) for places in self._drawn(epoch)]

    def _drawn(self, epoch: int) -> Sequence[NDArray[np.int64]]:
        """Photos of an epoch's batches, where they are drawn by their labels alone."""
        settings = self.settings
        if (old := settings.old) is not None and old.replay:
            replayed = self.photos.replayed
            return replayed_batches(
                settings.sampling, self._labels, replayed=replayed, share=old.replay, epoch=epoch, seed=settings.seed
            )
        if self.photos.parts:
            return joint_batches(settings.sampling, self._labels, self.photos.parts, epoch=epoch, seed=settings.seed)
        return batches_of(settings.sampling, self._labels, epoch=epoch, seed=settings.seed)

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As ``Task`` has it. tuples in the figures: how many pairs or triplets were chosen, where they were."""
        self.module.train()
        device = self._device
        labels = torch.from_numpy(self._labels[batch.places]).to(device)
        copies = numbered(batch.places)
        if self._views is not None:
            self._views.fill({(epoch + number) % self.settings.views for _, number in copies})
        chunk = self.settings.chunk
        chunks = [copies[start : start + chunk] for start in range(0, len(copies), chunk)]
        original = None if self.original is None else self._originals(chunks, epoch)
        figures: dict[str, float] = {}
        memory = None if self.memory is None else self.memory.contents()
        kept: list[list[Tensor]] = []
        anchors = None if self.settings.adversarial is None else {copies[row] for row in self._anchors(batch)}

        def loss_of(x: Tensor) -> Tensor:
            tuples = self._tuples(batch, x, labels, None, step)
            if tuples is not None:
                figures["tuples"] = float(len(tuples[0]))
            given = () if original is None else (None, original)
            value: Tensor = self.loss(x, labels, tuples, *given)
            if self._old is not None:
                before = self._old(x, labels, batch.places)
                figures["old"] = float(before.detach())
                value = value + before
            if memory is None:
                return value
            # As its authors' code has it: the batch within itself, and against the memory.
            across: Tensor = self.loss.forward(x, labels, self._tuples(batch, x, labels, memory, step), memory)
            return value + across

        passed = backward(
            chunks,
            self.model.suffix if self._views is not None else self._embed,
            loss_of,
            propagate,
            seed=int(np.random.SeedSequence([self.settings.seed, step]).generate_state(1)[0]),
            device=device,
            feed=lambda own: self._inputs(own, epoch, kept, step, anchors),
        )
        if self.memory is not None:
            self.memory.enqueue(passed.descriptors, labels)
        return {"loss": passed.loss, **figures}

    def validate(self) -> dict[str, float]:
        """mAP of what is held out; of several sets the mean of theirs, which decides, and that of each."""
        if not self._validations:
            return {}
        self.module.eval()
        each = {name: one.mean_average_precision(self.model) for name, one in self._validations.items()}
        named = {f"mAP {name}": value for name, value in each.items() if name}
        return {"mAP": sum(each.values()) / len(each), **named}

    @property
    def _keeps_plain(self) -> bool:
        """Whether a view is of photos as they are. Where several train together only the first mines, and all fill."""
        return self.plain is not None and ranks()[1] == 1

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _tuples(
        self, batch: Batch, x: Tensor, labels: Tensor, memory: tuple[Tensor, Tensor] | None, step: int
    ) -> Tuples | None:
        if batch.tuples is not None:
            return tuple(torch.from_numpy(column).to(x.device) for column in np.ascontiguousarray(batch.tuples.T))
        return mine(self.settings.miner, x, labels, memory, seed=self.settings.seed, step=step)

    def _embed(self, pictures: Sequence[Tensor]) -> Tensor:
        return embed_pictures(self.model, pictures, self.model.least)

    def _anchors(self, batch: Batch) -> list[int]:
        """Rows of the batch whose pictures are altered: of mined tuples the first, else the first of each object."""
        found = np.unique(self._labels[batch.places], return_index=True)[1] if batch.tuples is None else batch.tuples
        rows: list[int] = np.unique(found if found.ndim == 1 else found[:, 0]).tolist()
        return rows

    def _inputs(
        self,
        chunks: Sequence[Sequence[Copy]],
        epoch: int,
        kept: list[list[Tensor]],
        step: int = 0,
        anchors: AbstractSet[Copy] | None = None,
    ) -> Iterator[Any]:
        """What is embedded of each chunk: pictures, or what views are kept of them.

        kept: pictures of the first chunks, which the first pass leaves to the second as far as there is room.
        anchors: those to be altered, the same in both passes.
        """
        if self._views is None:
            yield from kept
            used, first = 0, not kept
            left = chunks[len(kept) :]
            made = self.pictures.made(left, epoch, self.settings.readers)
            for chunk, pictures in zip(left, made, strict=True):
                if anchors is not None:
                    pictures = self._hardened(chunk, pictures, step, anchors)
                used += sum(picture.nbytes for picture in pictures)
                if first and used <= self._room:
                    kept.append(pictures)
                yield pictures
            return
        for chunk in chunks:
            places, copies = np.array(chunk).T
            yield self._views.rows((epoch + copies) % self.settings.views, places).to(self._device)

    def _hardened(
        self, chunk: Sequence[Copy], pictures: Sequence[Tensor], step: int, anchors: AbstractSet[Copy]
    ) -> list[Tensor]:
        """A chunk's pictures, those of anchors altered; by the weights and the step alone."""
        assert self.settings.adversarial is not None
        chosen = [row for row, copy in enumerate(chunk) if copy in anchors]
        seeds = [
            int(np.random.SeedSequence([self.settings.seed, step, *chunk[row]]).generate_state(1)[0]) for row in chosen
        ]
        with torch.enable_grad():
            return harden(self.model, pictures, chosen, self.settings.adversarial, seeds)

    @torch.no_grad()
    def _describe(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Descriptors of photos as they are, N×D."""
        assert self.plain is not None
        self.module.eval()
        if self._views is not None and self._keeps_plain:
            view = self.settings.views
            self._views.fill({view})
            parts = np.array_split(places, -(-len(places) // self.settings.chunk))
            kept = (self._views.rows(np.full(len(part), view), part) for part in parts)
            return np.concatenate([self.model.suffix(x.to(self._device)).cpu().numpy() for x in kept])
        pieces = [numbered(part) for part in np.array_split(places, -(-len(places) // self.settings.chunk))]
        made = self.plain.made(pieces, 0, self.settings.readers)
        return np.concatenate([self._embed(pictures).float().cpu().numpy() for pictures in made])

    @torch.no_grad()
    def _originals(self, chunks: Sequence[Sequence[Copy]], epoch: int) -> Tensor:
        """The batch's descriptors by the model as it was."""
        assert self.original is not None
        self.original.to(self._device)
        embed = self.original.suffix if self._views is not None else self._embed_original
        return torch.cat([embed(inputs) for inputs in self._inputs(chunks, epoch, [])])

    def _embed_original(self, pictures: Sequence[Tensor]) -> Tensor:
        assert self.original is not None
        return embed_pictures(self.original, pictures, self.model.least)

    def _prefix(self, places: NDArray[np.int64], view: int) -> Tensor:
        pictured = self.pictures
        if self.plain is not None and view == self.settings.views:
            pictured, view = self.plain, 0
        (pictures,) = pictured.made([numbered(places)], view, self.settings.readers)
        return self.model.prefix(torch.stack(pictures))


def _old_terms(old: Describer, settings: Training, lesson: Lesson, dimension: int) -> OldTerms:
    if settings.old is None:
        raise ValueError("settings name no old recipe")
    check_old(old.recipe, dimension)
    how = {key: getattr(settings.old, key) for key in ("compatible", "distil", "temperature")}
    return OldTerms(old_vectors(old, lesson.photos.photos), lesson.photos.labels, **how)


def made_loss(settings: Training, dimensions: int, classes: int) -> Loss:
    """The loss of the settings. Raises RecipeError where miner or memory are not for it, or it trains no network."""
    loss = make_loss(settings.loss, dimensions=dimensions, classes=classes, seed=settings.seed)
    kind, miner = settings.loss.kind, settings.miner.kind
    if loss.freezes_backbone:
        raise RecipeError(f"loss = {kind} trains no descriptor: train it as a [[rerank]] table of the recipe")
    if not loss.takes_tuples and not isinstance(settings.miner, AllStage):
        raise RecipeError(f"loss = {kind} is of the whole batch, for which nothing is mined: leave out miner = {miner}")
    if settings.memory is not None and not loss.takes_memory:
        raise RecipeError(f"loss = {kind} takes no memory of earlier batches: leave out memory")
    return loss
