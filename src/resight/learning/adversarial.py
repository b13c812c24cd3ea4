"""Pictures altered by no more than ε a value so that a network is misled, and training on them (survey §7).

Projected gradient descent: Madry, Makelov, Schmidt, Tsipras & Vladu, "Towards Deep Learning Models Resistant to
Adversarial Attacks", ICLR 2018, §2; for descriptors as in Tolias, Radenović & Chum, ICCV 2019. Papers not checked:
from memory and the latter's published code (gtolias/tma), which steps by Adam and bounds no value.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from resight.recipes.stage import Stage

if TYPE_CHECKING:
    from resight.learning.model import Model

LossOf = Callable[[Tensor, int], Tensor]
"""B×3×H×W floating pixels from 0 to 255, and the number of the draw, to (B,): a loss of each picture by itself."""

_STEP = 2.5  # times ε, in all steps together, as Madry et al.: enough to reach the border from anywhere


class AdversarialStage(Stage):
    """Adversarial fine-tuning: anchors are altered so that their descriptors leave their own clean ones.

    Anchors are the first of each mined tuple; where all of the batch counts, the first picture of each object in it.
    epsilon: ε, by how much a value of a pixel may change, of 255. steps: of projected gradient descent, each as dear as
    a pass of the anchors forwards and backwards.
    """

    epsilon: int = Field(default=4, ge=1, le=64)
    steps: int = Field(default=3, ge=1)


def projected_gradient(
    loss_of: LossOf, pixels: Tensor, *, epsilon: int, steps: int, seeds: Sequence[int], draws: int = 1
) -> Tensor:
    """Pixels within ε of those given, for which a loss is small; B×3×H×W uint8.

    Each step goes by 2.5 ε / steps along the sign of the gradient, from a random start, and of all places on the way
    that with the least loss is taken. Rounded to whole values, which cannot leave the bounds, as these are whole.
    pixels: B×3×H×W uint8. epsilon: whole values of 255. seeds: of each picture's start. draws: of a random loss, which
    are averaged in each step (expectation over transformation: Athalye, Engstrom, Ilyas & Kwok, ICML 2018).
    """
    clean = pixels.float()
    low, high = (clean - epsilon).clamp_min(0), (clean + epsilon).clamp_max(255)
    x = torch.minimum(torch.maximum(clean + _start(clean, epsilon, seeds), low), high)
    best, least = x, torch.full((len(x),), torch.inf, device=x.device)
    for step in range(steps + 1):
        x = x.detach().requires_grad_(step < steps)
        loss = torch.zeros(len(x), device=x.device)
        slope = torch.zeros_like(x)
        for draw in range(draws):
            with torch.set_grad_enabled(step < steps):
                one = loss_of(x, step * draws + draw).float()
            loss += one.detach() / draws
            if step < steps:
                slope += torch.autograd.grad(one.sum(), x)[0]
        better = loss < least
        best, least = torch.where(better[:, None, None, None], x.detach(), best), torch.where(better, loss, least)
        x = torch.minimum(torch.maximum(x.detach() - _STEP * epsilon / steps * slope.sign(), low), high)
    return best.round().to(torch.uint8)


def harden(
    model: "Model", pictures: Sequence[Tensor], chosen: Sequence[int], stage: AdversarialStage, seeds: Sequence[int]
) -> list[Tensor]:
    """The pictures, the chosen of which are altered; none where its own descriptor would not move.

    pictures: 3×H×W uint8, of any sizes that the model takes. chosen: places among them. seeds: for each chosen one.
    Without mixed precision, in which small gradients vanish. The model's parameters get no gradients.
    """
    altered, training, device = list(pictures), model.training, next(model.parameters()).device
    sizes: dict[torch.Size, list[int]] = {}
    for number, place in enumerate(chosen):
        sizes.setdefault(pictures[place].shape, []).append(number)
    model.eval()
    try:
        for own in sizes.values():
            pixels = torch.stack([pictures[chosen[number]] for number in own]).to(device)
            with torch.autocast(device.type, enabled=False):
                loss_of = leaving(model, pixels)
                moved = projected_gradient(
                    loss_of, pixels, epsilon=stage.epsilon, steps=stage.steps, seeds=[seeds[n] for n in own]
                )
            for number, picture in zip(own, moved.cpu(), strict=True):
                altered[chosen[number]] = picture
    finally:
        model.train(training)
    return altered


def leaving(model: "Model", pixels: Tensor) -> LossOf:
    """The cosine of a picture's descriptor with that of the clean one."""

    def described(x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if min(height, width) < model.least:  # as ``embed_pictures`` has it
            size = (max(height, model.least), max(width, model.least))
            x = interpolate(x, size, mode="bilinear", align_corners=False)
        return model.through(x / 255)

    with torch.no_grad():
        clean = described(pixels.float())
    return lambda x, _: (described(x) * clean).sum(dim=1)


def _start(pixels: Tensor, epsilon: int, seeds: Sequence[int]) -> Tensor:
    """For each picture by its own seed, so that it does not matter what it goes through a network with."""
    drawn = [np.random.default_rng(seed).uniform(-epsilon, epsilon, pixels.shape[1:]) for seed in seeds]
    return torch.from_numpy(np.stack(drawn)).to(pixels)
