"""DOAP's network for patches from photos (He, Lu & Sclaroff, CVPR 2018): average precision of patches of one point.

A batch has sampling.classes points of several photos in sampling.each views each; every patch ranks all others, and the
loss is that of ``losses.listwise``. What the photos show plays no part: labels are the points.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from resight.describe.local_features import weights_sha256
from resight.errors import ImageError, RecipeError
from resight.evaluation.metrics import rectangular
from resight.images.apart import read_image_apart
from resight.learning.card import header_of
from resight.learning.datasets.warped_patches import Frames, warped_patches
from resight.learning.losses.loss import Loss
from resight.learning.losses.make import make_loss
from resight.learning.losses.stages import ListwiseApStage, LossStage, SmoothApStage
from resight.learning.schemes.delf_task import check_settings, parameter_groups
from resight.learning.schemes.delf_write import facts_of, without_learned
from resight.learning.schemes.reranking_copy import copied, finish
from resight.learning.task import Batch, Lesson, Phase, Task
from resight.local.doap import FILES, SIDE, Doap, l2net, read_doap
from resight.local.patch_network import BlobFeatures, octaves_of
from resight.networks.weights import file_sha256
from resight.recipes.local_stages import DoapFeatures
from resight.recipes.recipe import Recipe

if TYPE_CHECKING:
    from resight.learning.settings import Training

_A_PHOTO = 16  # points of one in a batch, at most
_STRONGEST = 300  # of a photo, of which these are drawn
_VALIDATED = 64  # photos
_UNREAD = ("miner", "learns", "augment", "fit", "validation_side", "whitening", "dimensions")


class PatchTask:
    """A ``Task``. stage: of the recipe, whose folder of weights has AffNet and OriNet."""

    def __init__(self, lesson: Lesson, stage: DoapFeatures) -> None:
        self.settings, folder = lesson.settings, Path(stage.weights)
        self.describe, self.base_sha256 = _begun(folder, stage, lesson.settings.seed)
        self.loss: Loss = make_loss(loss_stage(lesson.settings), dimensions=stage.dimensions, classes=0, seed=0)
        self.module: nn.Module = nn.ModuleDict({"describe": self.describe, "loss": self.loss})
        self._binary = stage.binary
        self._finder = BlobFeatures(folder, self.describe, dimension=stage.dimensions, threshold=stage.threshold)
        self._paths = list(dict.fromkeys(photo.path for photo in lesson.photos.photos))
        held_out = lesson.validation
        kept = [] if held_out is None else [held_out.locate(path) for path in held_out.database[:_VALIDATED]]
        self._held_out = [Path(path) for path in kept]
        self._frames: dict[Path, Frames] = {}

    def groups(self) -> Sequence[Mapping[str, object]]:
        """The network's parameters, at the run's rate."""
        return parameter_groups([self.describe], 1.0)

    def batches(self, epoch: int) -> Sequence[Batch]:
        """Places of photos, in an order drawn anew: as many as give a batch its points."""
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self._paths))
        count = -(-self.settings.sampling.classes // _A_PHOTO)
        return [Batch(places) for places in np.array_split(order, max(1, len(order) // count))]

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As the protocol has it."""
        each = self.settings.sampling.each
        rngs = [np.random.default_rng([self.settings.seed, epoch, place]) for place in batch.places.tolist()]
        paths = [self._paths[place] for place in batch.places.tolist()]
        drawn = np.concatenate([self._drawn(path, each, rng) for path, rng in zip(paths, rngs, strict=True)])
        device = next(self.describe.parameters()).device
        if not len(drawn):  # of photos without texture
            propagate(sum((p.sum() for p in self.describe.parameters()), torch.zeros((), device=device)) * 0)
            return {"loss": 0.0}
        labels = torch.arange(len(drawn), device=device).repeat_interleave(each)
        self.module.train()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.settings.seed + step)  # dropout
            x = self._embed(torch.from_numpy(drawn.reshape(-1, 1, SIDE, SIDE)).to(device))
        loss: Tensor = self.loss(x, labels)
        propagate(loss)
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """patch mAP: of each point's first view, among all other views of the points of photos held out."""
        if not self._held_out:
            return {}
        self.module.eval()
        each, device = self.settings.sampling.each, next(self.describe.parameters()).device
        rngs = [np.random.default_rng([self.settings.seed, place]) for place in range(len(self._held_out))]
        made = [self._drawn(path, each, rng) for path, rng in zip(self._held_out, rngs, strict=True)]
        drawn = torch.from_numpy(np.concatenate(made))
        parts = torch.split(drawn.reshape(-1, 1, SIDE, SIDE), 256)
        x = torch.cat([self.describe(part.to(device)).cpu() for part in parts])
        found = x.reshape(len(drawn), each, -1).numpy()
        return {"patch mAP": patch_map(found)}

    def _embed(self, patches: Tensor) -> Tensor:
        logits = self.describe.logits(patches)
        return normalize(logits.tanh() if self._binary else logits, dim=1)

    def _drawn(self, path: Path, each: int, rng: np.random.Generator) -> NDArray[np.float32]:
        try:
            image = read_image_apart(path, max_side=self.settings.side)
        except ImageError as error:
            raise RecipeError(f"{path}: {error.reason}; mend it or take it out") from error
        grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(image.pixels), cv2.COLOR_RGB2GRAY), np.uint8)
        if path not in self._frames:
            xy, frames, _ = self._finder.frames(grey, octaves_of(grey), _STRONGEST)
            self._frames[path] = xy, frames
        return warped_patches(grey, self._frames[path], _A_PHOTO, each, SIDE, rng)


def patch_map(x: NDArray[np.float32]) -> float:
    """Mean AP of P points' first views, each among the V − 1 further views of all; x P×V×D of unit length."""
    points, views, dimension = x.shape
    scores = x[:, 0] @ x[:, 1:].reshape(-1, dimension).T
    order = np.argsort(-scores, axis=1, kind="stable") // (views - 1)
    ranks = [np.flatnonzero(row == point) for point, row in enumerate(order)]
    return float(np.mean([rectangular(r, views - 1) for r in ranks])) if points else 0.0


def phases(recipe: Recipe, settings: "Training") -> Sequence[Phase]:
    """One. Raises RecipeError where the recipe has no DOAP, or the settings do not suit it."""
    _stage(recipe)
    check_settings(settings, "DOAP")
    if unread := [key for key in _UNREAD if key in settings.model_fields_set]:
        raise RecipeError(f"DOAP is trained without {', '.join(unread)}: leave that out")
    if settings.devices != 1:
        raise RecipeError(f"DOAP is trained on one device, not {settings.devices}: leave devices out")
    loss = loss_stage(settings)
    if not isinstance(loss, ListwiseApStage | SmoothApStage):
        raise RecipeError(f"DOAP learns by average precision, not by {loss.kind}: say listwise-ap or smooth-ap")
    return [Phase("patches", _make, _write)]


def loss_stage(settings: "Training") -> LossStage:
    """The settings' loss; where they name none, listwise AP of 25 bins."""
    return settings.loss if "loss" in settings.model_fields_set else ListwiseApStage(kind="listwise-ap", bins=25)


def _begun(folder: Path, stage: DoapFeatures, seed: int) -> tuple[Doap, str]:
    """The folder's network and the sha256 of its file; or one at random and ""."""
    if (folder / "DOAP.mat").is_file():
        raise RecipeError(f"{folder / 'DOAP.mat'}: a published model is not trained on: take it out of the folder")
    for name in FILES:
        if (folder / name).is_file():
            file = folder / name
            return read_doap(file, stage.dimensions, binary=stage.binary), file_sha256(file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Doap(l2net(stage.dimensions), binary=stage.binary), ""


def _make(recipe: Recipe, lesson: Lesson) -> Task:
    stage = _stage(recipe)
    if not all((Path(stage.weights) / name).is_file() for name in ("AffNet.pth", "OriNet.pth")):
        raise RecipeError(
            f"recipe {recipe.name}: the regions that it learns from are found by AffNet and OriNet: name a folder with "
            "AffNet.pth and OriNet.pth as weights of [local]"
        )
    return PatchTask(lesson, stage)


def _write(task: Task, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    if not isinstance(task, PatchTask):
        raise ValueError("the task is another's")
    facts = facts_of(lesson, loss=loss_stage(lesson.settings))
    table = copied(without_learned(recipe, network=False), into)
    folder = into / table["local"]["weights"]
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in task.describe.state_dict().items()}
    try:
        save_file(state, folder / "DOAP.safetensors", header_of({**facts, "base_sha256": task.base_sha256}))
    except OSError as error:
        raise RecipeError(f"{folder}: cannot be written: {error}") from error
    table["local"]["weights_sha256"] = weights_sha256(folder)
    finish(table, into, "patches", facts)


def _stage(recipe: Recipe) -> DoapFeatures:
    if not isinstance(recipe.local, DoapFeatures):
        raise RecipeError(f'recipe {recipe.name} has no DOAP to train: give it [local] with detector = "doap"')
    return recipe.local
