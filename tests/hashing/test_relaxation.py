"""Relaxed codes and their losses, against loops over the definitions and finite differences."""

import math

import numpy as np
import pytest
from scipy.linalg import hadamard

torch = pytest.importorskip("torch")

from resight.hashing.relaxation import (  # noqa: E402
    balance_loss,
    decorrelation_loss,
    hashnet_beta,
    quantisation_loss,
    relax,
)

LOSSES = [quantisation_loss, balance_loss, decorrelation_loss]


def draw(n, bits, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, size=(n, bits))


def naive_quantisation(r):
    total = 0.0
    for row in r:
        for value in row:
            nearest = 1 if value > 0 else -1
            total += (value - nearest) ** 2
    return total / r.size


def naive_balance(r):
    return sum((sum(r[i, b] for i in range(len(r))) / len(r)) ** 2 for b in range(r.shape[1])) / r.shape[1]


def naive_decorrelation(r):
    n, bits = r.shape
    total = 0.0
    for a in range(bits):
        for b in range(bits):
            moment = sum(r[i, a] * r[i, b] for i in range(n)) / n
            total += (moment - (a == b)) ** 2
    return total / bits


@pytest.mark.parametrize(
    ("loss", "naive"), list(zip(LOSSES, [naive_quantisation, naive_balance, naive_decorrelation], strict=True))
)
def test_losses_by_a_loop(loss, naive):
    codes = draw(9, 5)
    assert loss(torch.from_numpy(codes)).item() == pytest.approx(naive(codes), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_by_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, torch.from_numpy(draw(6, 4)).requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
def test_the_best_codes_have_no_loss(loss):
    codes = torch.from_numpy(hadamard(8)[:, 1:].astype(float))  # ±1, balanced, orthogonal
    assert loss(codes).item() == 0
    assert loss(torch.cat([codes[:, :1].abs() / 2, codes[:, 1:]], dim=1)).item() > 0.01


def test_few_codes_cannot_be_uncorrelated():
    n, bits = 4, 16
    codes = torch.from_numpy(np.linalg.qr(draw(bits, bits))[0][:n] * math.sqrt(n))
    assert decorrelation_loss(codes).item() == pytest.approx(1 - n / bits)
    assert decorrelation_loss(torch.from_numpy(draw(n, bits))).item() > 1 - n / bits


def test_relaxations_approach_the_sign_and_the_bit():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(relax(x, 1e3), torch.sign(x))
    torch.testing.assert_close(relax(x, 1e3, "sigmoid"), (torch.sign(x) + 1) / 2)
    torch.testing.assert_close(relax(x, 0.7), torch.tensor([math.tanh(0.7 * v) for v in x.tolist()]).double())
    expected = [1 / (1 + math.exp(-0.7 * v)) for v in x.tolist()]
    torch.testing.assert_close(relax(x, 0.7, "sigmoid"), torch.tensor(expected).double())


def test_beta_grows_in_steps():
    assert [hashnet_beta(step) for step in (0, 199, 200, 399, 1000)] == pytest.approx(
        [1, 1, math.sqrt(2), math.sqrt(2), math.sqrt(6)]
    )
    assert hashnet_beta(12345, gamma=0) == 1
    with pytest.raises(ValueError, match="step and gamma must be at least 0"):
        hashnet_beta(3, gamma=-1)
