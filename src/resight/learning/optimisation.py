"""How parameters move: optimiser, and the rate as a function of the step, so that it needs no state of its own."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch.optim import Optimizer

from resight.recipes.stage import Stage


class Optimisation(Stage):
    """Settings of the trainer itself, whatever it trains.

    epochs: passes over the task's batches. rate, weight_decay: of the optimiser, for groups that do not say otherwise.
    momentum: of sgd.
    schedule: the rate falls by ``decay`` each epoch (exponential; cirtorch has e^−0.01), or along half a cosine to 0 at
        the last step; constant keeps it. warm_up: steps in which it first rises linearly.
    clip: largest ℓ2-norm of all gradients together; 0 leaves them.
    precision: 32-true; or 16-bit products of 32-bit parameters, as bf16-mixed or 16-mixed (GPU only).
    accelerator, devices: what computes, and how many of them; "auto" takes a GPU where there is one.
    validate_every: epochs. patience: training stops after so many validations without a new best; 0 never.
    checkpoint_every: steps; there is one after each epoch in any case, and 0 makes no more.
    seed: of everything that is drawn.
    """

    epochs: int = Field(default=30, ge=1)
    rate: float = Field(default=1e-5, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["constant", "exponential", "cosine"] = "exponential"
    decay: float = Field(default=math.exp(-0.01), gt=0, le=1)
    warm_up: int = Field(default=0, ge=0)
    clip: float = Field(default=0.0, ge=0)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(default=1, ge=1)
    validate_every: int = Field(default=1, ge=1)
    patience: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)


def make_optimiser(settings: Optimisation, groups: Sequence[Mapping[str, object]]) -> Optimizer:
    """The optimiser of a task's groups, whose ``lr`` is a factor of the run's rate; kept as the group's ``factor``.

    Raises ValueError where there is nothing to learn.
    """
    made: list[dict[str, Any]] = []
    for group in groups:
        factor = group.get("lr", 1.0)
        made.append({**group, "factor": factor, "lr": settings.rate})
    if not any(parameter.requires_grad for group in made for parameter in group["params"]):
        raise ValueError("no parameter learns")
    common: dict[str, Any] = {"lr": settings.rate, "weight_decay": settings.weight_decay}
    match settings.optimiser:
        case "adamw":
            return torch.optim.AdamW(made, **common)
        case "adam":
            return torch.optim.Adam(made, **common)
        case "sgd":
            return torch.optim.SGD(made, momentum=settings.momentum, **common)


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Let each group move at ``rate`` times its factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]


def rate_at(settings: Optimisation, epoch: int, step: int, progress: float) -> float:
    """The rate of a step.

    epoch: completed ones. step: completed ones, of all epochs. progress: share of the whole run that is completed, of
    epochs alike in length: epoch, and the completed share of this one, over all of them.
    """
    match settings.schedule:
        case "constant":
            rate = settings.rate
        case "exponential":
            rate = settings.rate * settings.decay**epoch
        case "cosine":
            rate = settings.rate * 0.5 * (1 + math.cos(math.pi * progress))
    return rate * min(1.0, (step + 1) / settings.warm_up) if settings.warm_up else rate
