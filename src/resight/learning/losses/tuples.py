"""Pairs and triplets of a batch: those that mining chose, or all that the labels imply."""

import torch
from pytorch_metric_learning.utils import loss_and_miner_utils as _lmu
from torch import Tensor

from resight.learning.losses.loss import Memory, others
from resight.learning.task import Tuples

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]
Triplets = tuple[Tensor, Tensor, Tensor]


def pairs(labels: Tensor, tuples: Tuples | None, memory: Memory | None = None) -> Pairs:
    """(anchor, positive, anchor, negative), int64, the first two as long and the last two, no pair twice.

    Without tuples: of each row with every other, so that (i, j) and (j, i) both count, or with each row of memory.
    Triplets become their pairs, each once, as in cirtorch, whose query has one positive beside several negatives.
    """
    found: Pairs = _lmu.convert_to_pairs(tuples, labels, None if memory is None else memory[1])
    if tuples is None:
        return found
    (a, p), (b, n) = (torch.unique(torch.stack(side), dim=1) for side in (found[:2], found[2:]))
    return a, p, b, n


def triplets(labels: Tensor, tuples: Tuples | None, memory: Memory | None = None) -> Triplets:
    """(anchor, positive, negative), each (T,) int64, the latter two rows of memory where there is one.

    Pairs become the triplets that they make, each anchor's positives with each of its negatives.
    """
    found: Triplets = _lmu.convert_to_triplets(tuples, labels, None if memory is None else memory[1], "all")
    return found


def squared_distances(x: Tensor, labels: Tensor, memory: Memory | None = None) -> Tensor:
    """D of Eq. 11 from each of x, B×D, to each of the batch, or of memory, B×B or B×M; nowhere below 0."""
    y, _ = others(x, labels, memory)
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    return squares.clamp(min=0)
