"""The settings of a training on rendered pictures: those of any trainer, the pictures, and the losses."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from resight.errors import RecipeError
from resight.learning.optimisation import Optimisation
from resight.learning.procedural.settings import Rendering
from resight.learning.settings import flat, table_of
from resight.networks.compact import Compact
from resight.recipes.stage import Stage, problems


class LocalLosses(Stage):
    """What keypoints and their descriptors learn by.

    points: drawn of each pair. keypoint_share: how much sooner a pixel is drawn that is a keypoint, as a multiple of
        another's chance. radius: pixels; points of a pair that are nearer to one another are not told apart.
    temperature: of the descriptors' softmax. sigma, quality: of corners, as ``corner_response`` and ``cell_targets``
        have them.
    descriptors, reliability, keypoints: weights of the losses; 0 leaves one out.
    """

    points: int = Field(default=128, ge=2)
    keypoint_share: float = Field(default=8.0, ge=1)
    radius: float = Field(default=6.0, ge=0)
    temperature: float = Field(default=0.07, gt=0)
    sigma: float = Field(default=1.2, gt=0)
    quality: float = Field(default=0.02, gt=0, lt=1)
    descriptors: float = Field(default=1.0, ge=0)
    reliability: float = Field(default=0.3, ge=0)
    keypoints: float = Field(default=0.5, ge=0)


class GlobalLoss(Stage):
    """What the global vector learns by: the other view of its subject, among the batch's others.

    temperature: of the softmax. weight: of the loss; 0 leaves it out.
    """

    temperature: float = Field(default=0.1, gt=0)
    weight: float = Field(default=1.0, ge=0)


class Teaching(Stage):
    """A network, given by path, whose vectors of the same pictures the global vector is to agree with.

    network, layer: by timm's name, as recipes have them. p: the exponent of GeM, which pools it.
    dimensions: of the teacher's principal axes that are kept, learned of ``fitted_on`` rendered subjects.
    pictures: of a process's share of a batch, or all if it has fewer, that the teacher describes; it is slower than
        what it teaches.
    regression: weight of 1 − cosine to the teacher's vector, by a matrix that is dropped afterwards.
    relations, temperature: weight of the likenesses' divergence, as ``losses.relations`` has it, and its temperature.
    """

    network: str = "densenet169"
    layer: str = "features"
    p: float = Field(default=3.0, gt=0)
    dimensions: int = Field(default=256, ge=1)
    fitted_on: int = Field(default=384, ge=1)
    pictures: int = Field(default=8, ge=2)
    regression: float = Field(default=1.0, ge=0)
    relations: float = Field(default=0.0, ge=0)
    temperature: float = Field(default=0.1, gt=0)


class ProceduralTraining(Optimisation):
    """How the compact network is trained on pictures that are rendered as they are needed.

    epochs: of ``steps`` batches each. subjects: pairs of a batch. side: of the pictures.
    echoes: how often a batch's pictures are learned from, each further time altered as by ``altered``; with 1 no
        subject comes twice. For where they are rendered more slowly than they are learned from.
    growth: share of the run in which the ranges of viewpoint grow to what ``rendering`` says, from ``ease`` of that:
        descriptors come about sooner on pairs that are alike (a curriculum: Bengio et al., ICML 2009). 0 for none.
    held_out: subjects of another seed that are validated on, in pictures of ``side``.
    initial: weights to begin with, such as a trained ``model.safetensors``; "" for random ones.
    renderers: processes that render ahead; 0 renders in the training's own, on its device.
    validation_side: longest side of the pictures of a labelled set validated on. readers: threads that read those.
    """

    epochs: int = Field(default=30, ge=1)
    steps: int = Field(default=200, ge=1)
    subjects: int = Field(default=16, ge=2)
    side: int = Field(default=160, ge=64)
    echoes: int = Field(default=1, ge=1)
    rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["constant", "exponential", "cosine"] = "cosine"
    warm_up: int = Field(default=100, ge=0)
    clip: float = Field(default=10.0, ge=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    checkpoint_every: int = Field(default=100, ge=0)
    local: LocalLosses = LocalLosses()
    vector: GlobalLoss = GlobalLoss()
    teaching: Teaching = Teaching()
    rendering: Rendering = Rendering()
    growth: float = Field(default=0.5, ge=0, le=1)
    ease: float = Field(default=0.3, ge=0, le=1)
    held_out: int = Field(default=64, ge=0)
    initial: str = ""
    renderers: int = Field(default=1, ge=0)
    validation_side: int = Field(default=352, ge=32)
    readers: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "ProceduralTraining":
        if self.side % Compact.multiple:
            raise ValueError(f"side = {self.side} must be a multiple of {Compact.multiple}")
        if self.teaching.dimensions >= 2 * self.teaching.fitted_on:
            raise ValueError("teaching.dimensions are learned of more pictures: fitted_on subjects have two each")
        if self.subjects % self.devices or self.subjects < 2 * self.devices:
            raise ValueError(f"subjects = {self.subjects} must be shared evenly by {self.devices} devices, two or more")
        return self

    def rendering_at(self, step: int) -> Rendering:
        """Of the pictures of a step, counted through the run from 0."""
        grown = step / (self.growth * self.epochs * self.steps) if self.growth else 1.0
        return self.rendering if grown >= 1 else eased(self.rendering, self.ease + (1 - self.ease) * grown)

    @property
    def batches(self) -> int:
        """Of different subjects."""
        return -(-self.epochs * self.steps // self.echoes)

    @property
    def identity(self) -> dict[str, Any]:
        """What of the settings decides a run, by dotted key."""
        left_out = {"accelerator", "renderers", "readers", "checkpoint_every", "initial"}
        return dict(flat(self.model_dump(mode="json", exclude=left_out)))


def eased(rendering: Rendering, extent: float) -> Rendering:
    """With the ranges of azimuth, roll and size at a share of their extent, sizes about their geometric mean."""
    low, high = rendering.filled
    middle = math.sqrt(low * high)
    changes = {
        "azimuth": rendering.azimuth * extent,
        "roll": rendering.roll * extent,
        "filled": (middle * (low / middle) ** extent, middle * (high / middle) ** extent),
    }
    return rendering.model_copy(update=changes)


def load_procedural_settings(
    name: str | Path | None = None, changes: Sequence[str] = (), **given: Any
) -> ProceduralTraining:
    """As ``load_settings``, with dotted keys such as "local.points=256". Raises RecipeError naming file and key."""
    origin = "settings" if name is None else str(name)
    try:
        return ProceduralTraining.model_validate(table_of(name, changes, **given))
    except ValidationError as error:
        raise RecipeError(f"{origin}: {problems(error, 'settings')}") from error
