"""Large batches in little memory: the gradient of a loss of all descriptors, a chunk of pictures at a time.

Multi-stage back-propagation (Revaud, Almazán, Rezende & de Souza, "Learning with Average Precision", ICCV 2019, §3.3);
gradient caching (Gao, Zhang, Han & Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
RepL4NLP 2021). The chain rule at the descriptors x = f(pictures; θ): ∂L/∂θ = Σ_i (∂L/∂x_i)·(∂x_i/∂θ), whose terms need
the graph of one chunk only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from resight.learning.ranks import ranks, share_rows

Propagate = Callable[[Tensor], None]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Passed:
    """loss: of the batch. descriptors: B×D, without a graph, in the order of the chunks."""

    loss: float
    descriptors: Tensor


def backward(
    chunks: Sequence[T],
    embed: Callable[[Any], Tensor],
    loss_of: Callable[[Tensor], Tensor],
    propagate: Propagate,
    *,
    seed: int,
    device: torch.device | None = None,
    feed: Callable[[Sequence[T]], Iterable[Any]] = iter,
) -> Passed:
    """Propagate the gradient of a batch's loss to the parameters, with the graph of one chunk at a time in memory.

    chunks: what the batch consists of; ``feed`` makes the network's inputs of several, one for each, in order, and is
        asked once for each of the two passes. embed: makes n×D floating descriptors of one input.
    loss_of: a scalar of B×D descriptors. Its own parameters get their gradients too, if it is made by them.
    propagate: as ``Task.backward`` has it. seed: of all that is random in ``embed``: both passes draw the same.
    device: of the descriptors; None for the CPU.
    Where several processes train together, each embeds its share of the chunks, all of them know all descriptors, and
    the mean of their gradients is that of one process alone. The loss is computed without autocast.
    Raises ValueError where there is no chunk.
    """
    if not chunks:
        raise ValueError("a batch needs a chunk")
    device = device or torch.device("cpu")
    rank, world = ranks()
    places = range(rank, len(chunks), world)
    own = [chunks[place] for place in places]
    if len(chunks) == 1 and world == 1:  # one graph holds all: no second pass
        (inputs,) = feed(own)
        with drawing(seed, 0, device):
            x = embed(inputs)
        with torch.autocast(device.type, enabled=False):
            loss = loss_of(x)
        propagate(loss)
        return Passed(float(loss.detach()), x.detach())
    parts = []
    with torch.no_grad():
        for place, inputs in zip(places, feed(own), strict=True):
            with drawing(seed, place, device):
                parts.append(embed(inputs))
    x, own_rows = share_rows(parts, places, len(chunks), device)
    del parts
    x.requires_grad_()
    torch.clear_autocast_cache()  # it holds weights that were cast without a graph
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        loss = loss_of(x)
        # Mixed precision scales what it propagates. What comes by way of x is to be scaled once, in the second pass.
        scale = torch.zeros((), dtype=loss.dtype, device=loss.device, requires_grad=True)
        propagate(loss + scale)
    gradient = torch.zeros_like(x) if x.grad is None or scale.grad is None else x.grad / scale.grad
    for place, inputs, rows in zip(places, feed(own), own_rows, strict=True):
        with drawing(seed, place, device), torch.enable_grad():
            part = embed(inputs)
        propagate((part * gradient[rows]).sum() * world)  # the processes' mean is a sum of shares
    return Passed(float(loss.detach()), x.detach())


@contextmanager
def drawing(seed: int, place: int, device: torch.device) -> Iterator[None]:
    """What is random inside, such as dropout, follows from ``seed`` and ``place``; torch's own state is left alone."""
    cuda = [device] if device.type == "cuda" else []
    drawn = int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(drawn)
        yield
