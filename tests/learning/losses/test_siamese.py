"""Siamese losses against loops over their equations, and against pytorch-metric-learning."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer

from resight.learning.losses.siamese import DoubleMarginLoss, SiameseLoss

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def naive(x, labels, term):
    """Mean of term(S, D²) over all ordered pairs."""
    terms = []
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                square = sum((s - t) ** 2 for s, t in zip(x[i].tolist(), x[j].tolist(), strict=True))
                terms.append(term(int(labels[i] == labels[j]), square))
    return sum(terms) / max(len(terms), 1)


@settings(max_examples=25, deadline=None)
@given(SIZES, st.integers(0, 99), st.floats(0.05, 2.0), st.floats(0.0, 2.0))
def test_losses_are_those_of_the_equations(draw, sizes, seed, margin, more):
    x, labels = draw(tuple(sizes), seed=seed)
    found = {
        "13": SiameseLoss(margin)(x, labels),
        "cirtorch": SiameseLoss(margin, "cirtorch")(x, labels),
        "14": DoubleMarginLoss(margin, margin + more)(x, labels),
    }
    expected = {
        "13": lambda s, d: 0.5 * s * d + 0.5 * (1 - s) * max(0, margin - d),
        "cirtorch": lambda s, d: 0.5 * s * d + 0.5 * (1 - s) * max(0, margin - math.sqrt(d)) ** 2,
        "14": lambda s, d: 0.5 * s * max(0, d - margin) + 0.5 * (1 - s) * max(0, margin + more - d),
    }
    for name, term in expected.items():
        assert found[name].item() == pytest.approx(naive(x, labels, term), abs=1e-9), name


def test_reductions(draw):
    x, labels = draw(seed=3)
    n = len(x) * (len(x) - 1)
    mean, total, active = (SiameseLoss(0.7, reduction=how)(x, labels).item() for how in ("mean", "sum", "active"))
    assert total == pytest.approx(n * mean)
    above = sum(
        1
        for i in range(len(x))
        for j in range(len(x))
        if i != j and (labels[i] == labels[j] or (x[i] - x[j]).square().sum() < 0.7)
    )
    assert 0 < above < n and active == pytest.approx(total / above)


def test_pairs_may_be_chosen(draw, squared):
    x, labels = draw(seed=1)
    positive = [(i, j) for i in range(10) for j in range(10) if i < j and labels[i] == labels[j]][:2]
    negative = [(i, j) for i in range(10) for j in range(10) if labels[i] != labels[j]][:5]
    tuples = *torch.tensor(positive).T, *torch.tensor(negative).T
    expected = [squared(x[i], x[j]) / 2 for i, j in positive]
    expected += [max(0, 1.5 - squared(x[i], x[j])) / 2 for i, j in negative]
    assert SiameseLoss(1.5)(x, labels, tuples).item() == pytest.approx(sum(expected) / 7)
    triplet = tuple(torch.tensor([t]) for t in (*positive[0], negative[0][1]))
    far = max(0, 1.5 - squared(x[positive[0][0]], x[negative[0][1]]))
    assert SiameseLoss(1.5)(x, labels, triplet).item() == pytest.approx((squared(*x[list(positive[0])]) + far) / 4)


def test_triplets_of_a_query_are_cirtorchs_tuple(draw, squared):
    """Its positive once and each of its negatives once, summed; from triplets and from pairs as rows of one table."""
    x, labels = torch.eye(4, 3, dtype=torch.float64) + draw((4,), d=3, seed=5)[0], torch.tensor([0, 0, 1, 2])
    distances = [math.sqrt(squared(x[0], x[j])) for j in (1, 2, 3)]
    expected = (distances[0] ** 2 + sum(max(0, 2.5 - d) ** 2 for d in distances[1:])) / 2
    loss = SiameseLoss(2.5, "cirtorch", "sum")
    for rows in ([[0, 1, 2], [0, 1, 3]], [[0, 1, 0, 2], [0, 1, 0, 3]]):
        assert loss(x, labels, tuple(torch.tensor(rows).T)).item() == pytest.approx(expected)


def test_it_is_half_of_the_librarys_contrastive_loss(draw):
    """Whose positives and negatives are averaged apart."""
    x, labels = draw((4, 3, 5), seed=2)
    distance = LpDistance(normalize_embeddings=False, power=2)
    same = labels[:, None] == labels[None]
    a, p = torch.where(same & ~torch.eye(12, dtype=torch.bool))
    b, n = torch.where(~same)
    none = torch.empty(0, dtype=torch.int64)
    for how, reducer in (("mean", MeanReducer()), ("active", AvgNonZeroReducer())):
        library = ContrastiveLoss(0.3, 0.9, distance=distance, reducer=reducer)
        ours = DoubleMarginLoss(0.3, 0.9, how)
        for tuples in ((a, p, none, none), (none, none, b, n)):
            assert ours(x, labels, tuples).item() == pytest.approx(library(x, labels, tuples).item() / 2)


def test_a_picture_twice_in_a_batch_has_a_gradient(draw):
    x, labels = draw(seed=4)
    x = torch.cat([x, x[:1]]).float().requires_grad_()
    for other in (labels[:1], labels[:1] + 1):
        (gradient,) = torch.autograd.grad(SiameseLoss(0.7, "cirtorch")(x, torch.cat([labels, other])), x)
        assert gradient.isfinite().all() and gradient.abs().max() < 1


def test_values_out_of_range():
    with pytest.raises(ValueError, match="margin"):
        SiameseLoss(0)
    for near, far in ((-0.1, 1), (1, 0.5), (float("nan"), 1)):
        with pytest.raises(ValueError, match="near"):
            DoubleMarginLoss(near, far)
