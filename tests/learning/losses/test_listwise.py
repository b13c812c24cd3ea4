"""Listwise losses against loops over their definitions, scikit-learn and pytorch-metric-learning."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SmoothAPLoss as LibraryLoss
from sklearn.metrics import average_precision_score

from resight.learning.losses.listwise import ListwiseApLoss, SmoothApLoss, quantised_ap, smooth_ap

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def queries(x, labels, query_counts):
    """(scores, relevant) of each query with a positive."""
    for i in range(len(x)):
        kept = [j for j in range(len(x)) if query_counts or j != i]
        scores = [float(x[i] @ x[j] / x[i].norm() / x[j].norm()) for j in kept]
        relevant = [bool(labels[i] == labels[j]) for j in kept]
        if any(relevant):
            yield scores, relevant


def naive_quantised(scores, relevant, bins, low, high):
    width, total, hits, seen = (high - low) / (bins - 1), 0.0, 0.0, 0.0
    for m in range(bins):
        centre = high - m * width
        weight = [max(0.0, 1 - abs(min(max(s, low), high) - centre) / width) for s in scores]
        hit, seen = sum(w for w, r in zip(weight, relevant, strict=True) if r), seen + sum(weight)
        hits += hit
        total += hits / seen * hit if hit else 0.0
    return total / sum(relevant)


def naive_smooth(scores, relevant, temperature):
    def ahead(j, k):
        return 1 / (1 + math.exp(-(scores[j] - scores[k]) / temperature))

    total = 0.0
    for k in [k for k, r in enumerate(relevant) if r]:
        others = [j for j in range(len(scores)) if j != k]
        total += (1 + sum(ahead(j, k) for j in others if relevant[j])) / (1 + sum(ahead(j, k) for j in others))
    return total / sum(relevant)


def loss_of(aps):
    return 1 - sum(aps) / len(aps) if aps else 0.0


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(0, 99), st.sampled_from([2, 7, 20]), st.sampled_from([-1.0, 0.0]), st.booleans())
def test_triangular_bins(draw, sizes, seed, bins, low, query_counts):
    x, labels = draw(tuple(sizes), seed=seed, unit=False)
    expected = loss_of([naive_quantised(*q, bins, low, 1.0) for q in queries(x, labels, query_counts)])
    found = ListwiseApLoss(bins, low, query_counts=query_counts)(x, labels).item()
    assert found == pytest.approx(expected, abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(0, 99), st.sampled_from([0.01, 0.2, 1.0]), st.booleans())
def test_sigmoid_ranks(draw, sizes, seed, temperature, query_counts):
    x, labels = draw(tuple(sizes), seed=seed, unit=False)
    expected = loss_of([naive_smooth(*q, temperature) for q in queries(x, labels, query_counts)])
    found = SmoothApLoss(temperature, query_counts=query_counts)(x, labels).item()
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_sharp_sigmoids_give_average_precision(draw, seed):
    x, labels = draw((5, 1, 7, 3, 2), seed=seed, spread=1.2)
    expected = loss_of([average_precision_score(r, s) for s, r in queries(x, labels, False)])
    assert SmoothApLoss(1e-7)(x, labels).item() == pytest.approx(expected, abs=1e-6)
    assert 0.05 < expected < 0.95


@pytest.mark.parametrize("seed", range(5))
def test_scores_in_the_middle_of_bins_give_average_precision(seed):
    """Also where several tie, as scikit-learn has it."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 21, size=(6, 40)) / 20
    relevant = rng.random((6, 40)) < 0.3
    expected = [average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    every = torch.ones(6, 40, dtype=torch.bool)
    found = quantised_ap(torch.tensor(scores), torch.tensor(relevant), every, 21, 0.0, 1.0)
    np.testing.assert_allclose(found.numpy(), expected)


def test_many_bins_come_near_to_average_precision(draw):
    x, labels = draw((5, 1, 7, 3, 2), seed=1, spread=1.2)
    expected = loss_of([average_precision_score(r, s) for s, r in queries(x, labels, False)])
    near, far = (abs(ListwiseApLoss(bins)(x, labels).item() - expected) for bins in (2001, 5))
    assert near < 0.1 and near < far


@pytest.mark.parametrize("sizes", [(3, 3, 3), (4, 4, 4, 4)])
def test_it_is_the_librarys_where_that_is_right(draw, sizes):
    """For as many classes as each has members, which lie together: it mixes these up. The query counts."""
    x, labels = draw(sizes, seed=8)
    order = labels.argsort(stable=True)
    found = SmoothApLoss(0.05, query_counts=True)(x[order], labels[order]).item()
    assert found == pytest.approx(LibraryLoss(0.05)(x[order].float(), labels[order]).item(), abs=1e-5)


def test_better_rankings_cost_less(draw):
    """A few steps down the gradient bring 1 − mAP down."""
    for loss in (ListwiseApLoss(20), SmoothApLoss(0.05)):
        x, labels = draw((4, 2, 5, 3), seed=2, spread=2.0)
        before = loss_of([average_precision_score(r, s) for s, r in queries(x, labels, False)])
        x.requires_grad_()
        for _ in range(50):
            (gradient,) = torch.autograd.grad(loss(x, labels), x)
            x = (x - 0.3 * gradient).detach().requires_grad_()
        after = loss_of([average_precision_score(r, s) for s, r in queries(x.detach(), labels, False)])
        assert after < 0.8 * before


@pytest.mark.parametrize("loss", [ListwiseApLoss(20), SmoothApLoss(0.05)])
def test_a_memory_is_ranked_beside_the_batch(draw, loss):
    """Queries of the batch find in batch and memory what they would in one batch of both."""
    x, labels = draw((4, 2, 5, 3), seed=3)
    cosine, same = x @ x.T, labels[:, None] == labels[None]
    ranked = ~torch.eye(len(x), dtype=torch.bool)
    asked = (same & ranked)[:5].any(1)
    name = quantised_ap if isinstance(loss, ListwiseApLoss) else smooth_ap
    option = 20 if isinstance(loss, ListwiseApLoss) else 0.05
    expected = 1 - name(cosine, same, ranked, option)[:5][asked].mean()
    assert loss(x[:5], labels[:5], memory=(x[5:], labels[5:])).item() == pytest.approx(expected.item())


def test_values_out_of_range():
    for make in (lambda: ListwiseApLoss(1), lambda: ListwiseApLoss(20, 1, 1), lambda: SmoothApLoss(0)):
        with pytest.raises(ValueError, match=r"bins|temperature"):
            make()
