"""Hash layers learned by gradient descent on the vectors of a frozen network. Torch is needed to learn, not to hash.

The losses beside are functions of tensors, so that a trainer can just as well put them after a network that learns too.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.hashing.centring import Centring
from resight.hashing.function import Layer

Progress = Callable[[int, float], None]  # told each epoch, from 0, and its mean loss


def perceptron(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Affine layers from widths[0] inputs to widths[-1] outputs, with ReLUs between them.

    Weights are drawn from N(0, 1/inputs), biases are 0: without hidden layers, and before it learns, this is LSH.
    """
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")  # draws nothing of torch's own
        with torch.no_grad():
            layer.weight.normal_(0, 1 / math.sqrt(inputs), generator=generator)
            layer.bias.zero_()
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def layers_of(network: nn.Sequential, centring: Centring) -> tuple[Layer, ...]:
    """What ``perceptron`` has become, for vectors that are not centred."""
    affine = [module for module in network if isinstance(module, nn.Linear)]
    layers = [
        Layer(
            module.weight.detach().numpy().copy(),
            module.bias.detach().numpy().copy(),
            "linear" if module is affine[-1] else "relu",
        )
        for module in affine
    ]
    return (centring.into(layers[0]), *layers[1:])


@dataclass(frozen=True)
class Descent:
    """Adam (Kingma & Ba, ICLR 2015) over things that come in an order drawn anew each epoch.

    epochs: 0 leaves the start as it is. batch: about so many at a time, all batches as large to within one.
    Raises ValueError for values out of range.
    """

    epochs: int = 50
    batch: int = 128
    rate: float = 3e-3

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1 or not self.rate > 0:
            raise ValueError(f"epochs must be at least 0, batch at least 1 and rate above 0, not {self}")

    def run(
        self,
        parameters: Iterable[nn.Parameter],
        loss: Callable[[NDArray[np.int64], int], Tensor],
        n: int,
        *,
        seed: int,
        on_epoch: Progress | None = None,
    ) -> None:
        """Change the parameters so that the loss falls: of some of n things, by number, at a step counted from 0."""
        optimiser, rng = torch.optim.Adam(parameters, lr=self.rate), np.random.default_rng(seed)
        pieces, step = max(1, round(n / self.batch)), 0
        for epoch in range(self.epochs):
            total = 0.0
            for rows in np.array_split(rng.permutation(n), pieces):
                optimiser.zero_grad()
                value = loss(rows, step)
                value.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += len(rows) * value.item()
                step += 1
            if on_epoch is not None:
                on_epoch(epoch, total / n)
