"""Siamese hashing: the double-margin loss by a loop and by finite differences; what its margins leave alone."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.hashing.codes import unpack  # noqa: E402
from resight.hashing.siamese import (  # noqa: E402
    SiameseLoss,
    double_margin_loss,
    fit_siamese,
    fit_siamese_of_pairs,
)
from resight.hashing.training import Descent  # noqa: E402

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(8, 4)), RNG.normal(size=(8, 4))
MATCH = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
SECOND[:2] = FIRST[:2] + 0.1


def naive(first, second, match, near, far):
    total = 0.0
    for a, b, same in zip(first, second, match, strict=True):
        distance = math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))
        total += 0.5 * (max(0, distance - near) if same else max(0, far - distance))
    return total / len(match)


@pytest.mark.parametrize(("near", "far"), [(0.5, 3.0), (0.0, 2.0), (1.0, 1.0)])
def test_loss_by_a_loop(near, far):
    found = double_margin_loss(*map(torch.from_numpy, (FIRST, SECOND, MATCH)), near=near, far=far)
    assert found.item() == pytest.approx(naive(FIRST, SECOND, MATCH, near, far), rel=1e-12)


def test_gradients_by_finite_differences():
    first, second = (torch.from_numpy(a).requires_grad_() for a in (FIRST, SECOND))
    match = torch.from_numpy(MATCH)
    assert torch.autograd.gradcheck(lambda a, b: double_margin_loss(a, b, match, near=0.5, far=3.0), (first, second))
    loss = SiameseLoss(decorrelation=0.3)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, match, 400), (first, second))


def test_pairs_within_their_margins_are_left_alone():
    a = torch.tensor([[0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    b = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    loss = double_margin_loss(a, b, torch.tensor([True, False]), near=1.5, far=2.5)
    loss.backward()
    assert loss.item() == 0
    assert not a.grad.any()


def test_a_pair_at_one_point_has_a_gradient_that_is_a_number():
    a = torch.zeros(1, 3, requires_grad=True)
    double_margin_loss(a, torch.zeros(1, 3), torch.tensor([False]), near=0.0, far=1.0).backward()
    assert a.grad.isfinite().all()


def test_margins_are_shares_of_bits():
    """Of codes of ±1 by large outputs: a matching pair that differs in 2 of 8 bits, and another that differs in 2."""
    codes = torch.full((2, 8), 50.0)
    others = codes.clone()
    others[:, :2] *= -1
    match = torch.tensor([True, False])
    bare = {"growth": 0.0, "quantisation": 0.0, "balance": 0.0}
    assert SiameseLoss(near=0.25, far=0.25, **bare)(codes, others, match, 0).item() == pytest.approx(0, abs=1e-7)
    found = SiameseLoss(near=1 / 16, far=0.5, **bare)(codes, others, match, 0).item()
    assert found == pytest.approx((0.5 - 0.25 + math.sqrt(0.5) - 0.5) / 4, rel=1e-6)


def test_training_lowers_the_loss_and_codes_beat_a_random_layer(clusters, mean_ap):
    (x, labels), (held_out, same) = clusters(seed=0), clusters(seed=1)
    losses = []
    learned = fit_siamese(
        x,
        labels,
        16,
        seed=0,
        fitted_on="x",
        loss=SiameseLoss(growth=0.0),
        descent=Descent(epochs=10, batch=256),
        on_epoch=lambda _, loss: losses.append(loss),
    )
    untrained = fit_siamese(x, labels, 16, seed=0, fitted_on="x", descent=Descent(epochs=0))
    assert losses[-1] < 0.7 * losses[0]
    assert mean_ap(learned, held_out, same) > mean_ap(untrained, held_out, same) + 0.2


def test_pairs_may_be_given(clusters):
    """Only the first two things are told apart; their codes must differ in about as many bits as the margin asks."""
    x, labels = clusters()
    first, second = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    pairs = [(a, b) for group in (first, second) for a in group for b in group if a < b]
    others = [(a, b) for a in first for b in second]
    function = fit_siamese_of_pairs(
        x,
        pairs + others,
        [True] * len(pairs) + [False] * len(others),
        16,
        seed=0,
        fitted_on="pairs",
        descent=Descent(epochs=30, rate=1e-2),
    )
    bits = unpack(function.encode(x))
    within = np.mean([bits[a] != bits[b] for a, b in pairs])
    between = np.mean([bits[a] != bits[b] for a, b in others])
    assert within < 0.1
    assert between > 0.4


def test_bad_input(clusters):
    x, _ = clusters(each=3)
    good = {"seed": 0, "fitted_on": ""}
    with pytest.raises(ValueError, match="P×2"):
        fit_siamese_of_pairs(x, [[0, 1, 2]], [True], 8, **good)
    with pytest.raises(ValueError, match="from 0 to 47"):
        fit_siamese_of_pairs(x, [[0, 48], [0, 1]], [True, False], 8, **good)
    with pytest.raises(RecipeError, match="match in part"):
        fit_siamese_of_pairs(x, [[0, 1]], [True], 8, **good)
    with pytest.raises(RecipeError, match="no two photos"):
        fit_siamese(x, np.arange(48), 8, **good)
    with pytest.raises(ValueError, match="0 ≤ near ≤ far ≤ 1"):
        SiameseLoss(near=0.6, far=0.5)
    with pytest.raises(ValueError, match="0 ≤ near ≤ far"):
        double_margin_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([True]), near=2, far=1)
