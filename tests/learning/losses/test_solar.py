"""SOLAR's loss against loops over tuples, as its authors have them: a query, its positive, and its negatives."""

import math

import pytest
import torch

from resight.learning.losses.solar import SolarLoss


def naive(x, tuples, margin, weight, squared):
    """tuples: of a query, a positive and several negatives."""
    triplet, second = 0.0, 0.0
    for a, p, negatives in tuples:
        for n in negatives:
            triplet += max(0, margin + squared(x[a], x[p]) - squared(x[a], x[n]))
            second += (squared(x[a], x[n]) - squared(x[p], x[n])) ** 2
    return (triplet + weight * math.sqrt(second)) / len(tuples)


@pytest.mark.parametrize("seed", range(4))
def test_chosen_tuples(draw, squared, triplets_of, seed):
    x, labels = draw((3, 1, 4, 2), seed=seed)
    grouped = {}
    for a, p, n in triplets_of(labels)[::3]:
        grouped.setdefault((a, p), []).append(n)
    tuples = [(a, p, negatives) for (a, p), negatives in grouped.items()]
    rows = torch.tensor([(a, p, n) for a, p, negatives in tuples for n in negatives])
    found = SolarLoss(0.9, 5.0)(x, labels, tuple(rows.T)).item()
    assert found == pytest.approx(naive(x, tuples, 0.9, 5.0, squared))


def test_all_triplets_of_a_batch(draw, squared):
    x, labels = draw((3, 1, 2), seed=9)
    n = range(len(x))
    tuples = [
        (a, p, [k for k in n if labels[k] != labels[a]]) for a in n for p in n if a != p and labels[a] == labels[p]
    ]
    assert SolarLoss()(x, labels).item() == pytest.approx(naive(x, tuples, 1.25, 10.0, squared))


def test_second_order_similarity_has_a_gradient_where_it_is_met():
    """Query and positive are the same, and so as far from the negative."""
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1]], requires_grad=True)
    loss = SolarLoss(0.1, 3.0)(x, torch.tensor([0, 0, 1]))
    assert loss == 0 and torch.autograd.grad(loss, x)[0].isfinite().all()
    for margin, weight in ((0, 1), (1, -1)):
        with pytest.raises(ValueError, match="margin"):
            SolarLoss(margin, weight)
