"""The RBM by summing over its hidden states, its gradient by the textbook's update, its regulariser by a loop."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.hashing.codes import unpack  # noqa: E402
from resight.hashing.rbm import divergence_loss, fit_rbm, free_energy, uniform_loss, uniform_targets  # noqa: E402
from resight.hashing.training import Descent  # noqa: E402

D, B = 4, 3


def machine(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, D)), rng.normal(size=B), rng.normal(size=D)


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_free_energy_sums_over_hidden_states():
    weight, bias, offset = machine()
    visible = draw(5, D)
    expected = []
    for v in visible:
        states = itertools.product([0, 1], repeat=B)
        energies = [0.5 * np.sum((v - offset) ** 2) - np.dot(h, weight @ v + bias) for h in states]
        expected.append(-np.log(np.sum(np.exp(-np.array(energies)))))
    found = free_energy(*(torch.from_numpy(a) for a in (visible, offset, visible @ weight.T + bias)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_gradient_is_the_update_of_contrastive_divergence():
    weight, bias, offset = machine()
    data, dreamt = draw(6, D), draw(6, D, seed=1)
    learned = [torch.from_numpy(a).requires_grad_() for a in (weight, bias, offset)]
    divergence_loss(torch.from_numpy(data), torch.from_numpy(dreamt), *learned).backward()
    up, down = np.zeros((B, D)), np.zeros((B, D))
    for v in data:
        up += np.outer(sigmoid(weight @ v + bias), v) / 6
    for v in dreamt:
        down += np.outer(sigmoid(weight @ v + bias), v) / 6
    np.testing.assert_allclose(learned[0].grad.numpy(), -(up - down), atol=1e-10)
    units = sigmoid(data @ weight.T + bias).mean(axis=0) - sigmoid(dreamt @ weight.T + bias).mean(axis=0)
    np.testing.assert_allclose(learned[1].grad.numpy(), -units, atol=1e-10)
    np.testing.assert_allclose(learned[2].grad.numpy(), -(data.mean(axis=0) - dreamt.mean(axis=0)), atol=1e-10)


def test_targets_by_hand():
    outputs = torch.tensor([[3.0, -1.0], [-5.0, 2.0], [0.0, 2.0], [9.0, 7.0]])
    expected = torch.tensor([[5, 1], [1, 4], [3, 4], [7, 7]]) / 8  # the second unit's 2s share ranks 2 and 3
    torch.testing.assert_close(uniform_targets(outputs), expected)


def test_uniform_loss_by_a_loop_and_by_finite_differences():
    outputs = draw(7, 3)
    expected = 0.0
    for unit in outputs.T:
        for value in unit:
            target = (1 + sum(other < value for other in unit) - 0.5) / 7
            expected -= (target * np.log(sigmoid(value)) + (1 - target) * np.log(1 - sigmoid(value))) / 21
    tensor = torch.from_numpy(outputs).requires_grad_()
    assert uniform_loss(tensor).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(uniform_loss, tensor)


def test_it_is_least_where_units_are_uniform():
    even = torch.logit((torch.arange(8, dtype=torch.float64)[:, None] + 0.5) / 8).requires_grad_()
    uniform_loss(even).backward()
    torch.testing.assert_close(even.grad, torch.zeros_like(even))
    all_half = torch.linspace(-1e-6, 1e-6, 8, dtype=torch.float64)[:, None]
    assert uniform_loss(all_half) > uniform_loss(even) + 0.1


def imbalance(function, x):
    return np.abs(unpack(function.encode(x)).mean(axis=0) - 0.5).mean()


def test_the_regulariser_balances_bits_of_skewed_vectors():
    x = np.exp(draw(400, 24)).astype(np.float32)
    free = fit_rbm(x, 16, seed=0, fitted_on="x", uniform=0, descent=Descent(epochs=60))
    even = fit_rbm(x, 16, seed=0, fitted_on="x", uniform=3.0, descent=Descent(epochs=60))
    held_out = np.exp(draw(400, 24, seed=1)).astype(np.float32)
    assert imbalance(even, held_out) < 0.05
    assert imbalance(even, held_out) < 0.5 * imbalance(free, held_out)


def test_codes_beat_a_random_machine(clusters, mean_ap):
    (x, _), (held_out, labels) = clusters(seed=0), clusters(seed=1)
    learned = fit_rbm(x, 16, seed=0, fitted_on="x")
    untrained = fit_rbm(x, 16, seed=0, fitted_on="x", descent=Descent(epochs=0))
    assert mean_ap(learned, held_out, labels) > mean_ap(untrained, held_out, labels) + 0.1


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="uniform must be at least 0"):
        fit_rbm(draw(9, 4), 8, seed=0, fitted_on="", uniform=-1)
