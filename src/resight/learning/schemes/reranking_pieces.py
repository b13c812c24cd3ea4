"""Gradients of a mean over examples, a piece of a batch at a time: what needs no more than its own graph in memory."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from resight.learning.ranks import ranks, share_rows

T = TypeVar("T")


def backward_in_pieces(
    pieces: Sequence[T],
    rows_of: Callable[[T], Tensor],
    count: int,
    propagate: Callable[[Tensor], None],
    device: torch.device,
) -> Tensor:
    """Propagate the gradient of the mean of the losses of ``count`` examples; N×F of all, without a graph, in order.

    pieces: of the batch, the same in all processes, each of which takes its share of them. rows_of: a row for each
    example of a piece, n×F: its loss, then figures that are not trained.
    """
    rank, world = ranks()
    own = range(rank, len(pieces), world)
    found = []
    for place in own:
        rows = rows_of(pieces[place])
        propagate(rows[:, 0].sum() * (world / count))  # gradients become the processes' mean
        found.append(rows.detach().float())
    return share_rows(found, list(own), len(pieces), device)[0]
