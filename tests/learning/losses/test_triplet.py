"""Triplet, joint and quadruplet losses against loops over their equations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import AvgNonZeroReducer

from resight.learning.losses.classification import CrossEntropyLoss
from resight.learning.losses.triplet import JointLoss, QuadrupletLoss, TripletLoss

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def mean(values):
    return sum(values) / max(len(values), 1)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(0, 99), st.floats(0.05, 2.0), st.floats(0.05, 2.0))
def test_losses_are_those_of_the_equations(draw, squared, triplets_of, sizes, seed, margin, second):
    x, labels = draw(tuple(sizes), seed=seed)
    triplets = triplets_of(labels)
    triplet = [max(0, margin + squared(x[a], x[p]) - squared(x[a], x[n])) for a, p, n in triplets]
    pushed = [
        max(0, second + squared(x[a], x[p]) - squared(x[m], x[n]))
        for a, p, n in triplets
        for m in range(len(x))
        if labels[m] not in (labels[a], labels[n])
    ]
    assert TripletLoss(margin)(x, labels).item() == pytest.approx(mean(triplet), abs=1e-9)
    found = QuadrupletLoss(margin, second)(x, labels).item()
    assert found == pytest.approx(mean(triplet) + mean(pushed), abs=1e-9)


def test_triplets_may_be_chosen_and_pairs_make_some(draw, squared, triplets_of):
    x, labels = draw(seed=5)
    chosen = triplets_of(labels)[::7]
    expected = mean([max(0, 0.9 + squared(x[a], x[p]) - squared(x[a], x[n])) for a, p, n in chosen])
    assert TripletLoss(0.9)(x, labels, tuple(torch.tensor(chosen).T)).item() == pytest.approx(expected)
    a, p, _ = triplets_of(labels)[0]
    others = [k for k in range(len(x)) if labels[k] != labels[a]][:3]
    pairs = *torch.tensor([[a, p]]).T, *torch.tensor([[a, k] for k in others]).T
    expected = mean([max(0, 0.9 + squared(x[a], x[p]) - squared(x[a], x[k])) for k in others])
    assert TripletLoss(0.9)(x, labels, pairs).item() == pytest.approx(expected)


def test_it_is_the_librarys(draw):
    x, labels = draw((4, 2, 5), seed=6)
    library = TripletMarginLoss(
        0.4,
        distance=LpDistance(normalize_embeddings=False, power=2),
        triplets_per_anchor="all",
        reducer=AvgNonZeroReducer(),
    )
    assert TripletLoss(0.4, "active")(x, labels).item() == pytest.approx(library(x, labels).item())


def test_the_joint_loss_weighs_two(draw):
    x, labels = draw(seed=7)
    classifier = CrossEntropyLoss(5, 4, 0)
    found = JointLoss(TripletLoss(0.5), classifier, 0.3, 1.7)(x, labels).item()
    assert found == pytest.approx(0.3 * TripletLoss(0.5)(x, labels).item() + 1.7 * classifier(x, labels).item())


def test_values_out_of_range():
    for make in (lambda: TripletLoss(0), lambda: QuadrupletLoss(1, 0)):
        with pytest.raises(ValueError, match="above 0"):
            make()
    with pytest.raises(ValueError, match="beta"):
        JointLoss(TripletLoss(), CrossEntropyLoss(5, 4, 0), 1, -1)
