"""Losses of rendered pairs against loops over their definitions, and their gradients against differences."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from resight.learning.procedural.losses import dual_softmax, info_nce, nearest_right, relations, reliability

T = 0.2


def unit(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


@pytest.fixture
def pairs():
    """Seven points of three pairs, their descriptors, and what is left out."""
    ignored = torch.zeros(7, 7, dtype=torch.bool)
    ignored[0, 1] = ignored[1, 0] = ignored[4, 6] = True
    return unit(7, 5), unit(7, 5, seed=1), torch.tensor([0, 0, 0, 1, 2, 2, 2]), ignored


def test_dual_softmax_is_its_definition(pairs):
    a, b, _, ignored = pairs
    total = 0.0
    for i in range(7):
        of_a = sum(math.exp(float(a[i] @ b[j]) / T) for j in range(7) if not ignored[i, j])
        of_b = sum(math.exp(float(a[j] @ b[i]) / T) for j in range(7) if not ignored[j, i])
        own = math.exp(float(a[i] @ b[i]) / T)
        total -= (math.log(own / of_a) + math.log(own / of_b)) / 2
    assert float(dual_softmax(a, b, ignored, T)) == pytest.approx(total / 7, rel=1e-12)


def test_the_nearest_are_found_in_their_own_pair(pairs):
    pair, ignored = pairs[2:]
    kinds = set()
    for seed in range(10):
        a, b = unit(7, 5, seed=seed), unit(7, 5, seed=seed + 100)
        # Made so that some are right: every other descriptor is near to its own.
        b[::2] = normalize(a[::2] + 0.3 * b[::2], dim=1)
        wanted = []
        for i in range(7):
            rivals = [j for j in range(7) if pair[j] == pair[i] and j != i]
            own = a[i] @ b[i]
            there = all(own >= a[i] @ b[j] for j in rivals if not ignored[i, j])
            back = all(own >= a[j] @ b[i] for j in rivals if not ignored[j, i])
            wanted.append(there and back)
            kinds.add((there, back))
        assert nearest_right(a, b, pair, ignored).tolist() == wanted
    assert len(kinds) == 4


def test_info_nce_is_its_definition_and_leaves_equal_subjects_out():
    x, subject = unit(8, 6), [3, 5, 3, 9]
    total = 0.0
    for i in range(8):
        other = (i + 4) % 8
        among = [j for j in range(8) if j != i and (j == other or subject[j % 4] != subject[i % 4])]
        total -= math.log(math.exp(float(x[i] @ x[other]) / T) / sum(math.exp(float(x[i] @ x[j]) / T) for j in among))
    assert float(info_nce(x, torch.tensor(subject), T)) == pytest.approx(total / 8, rel=1e-12)


def test_relations_are_the_divergence_of_softmaxes():
    s, t = unit(5, 4), unit(5, 9, seed=1)
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if j != i]
        p = np.exp([float(t[i] @ t[j]) / T for j in others])
        q = np.exp([float(s[i] @ s[j]) / T for j in others])
        p, q = p / p.sum(), q / q.sum()
        total += float((p * np.log(p / q)).sum())
    assert float(relations(s, t, T)) == pytest.approx(total / 5, rel=1e-10)
    assert float(relations(t, t, T)) == pytest.approx(0, abs=1e-12)


def test_reliability_is_least_at_the_share_that_is_right():
    right = torch.tensor([True, True, True, False])
    at = [float(reliability(torch.full((4,), logit), right)) for logit in (0.5, math.log(3), 2.0)]
    assert at[1] < at[0] and at[1] < at[2]
    assert at[1] == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: dual_softmax(normalize(x[:4], dim=1), normalize(x[4:], dim=1), torch.eye(4).roll(1, 1).bool(), T),
        lambda x: info_nce(normalize(x, dim=1), torch.tensor([0, 1, 1, 2]), T),
        lambda x: relations(normalize(x, dim=1), unit(8, 3, seed=2), T),
        lambda x: reliability(x[:, 0], torch.arange(8) % 3 == 0),
    ],
)
def test_gradients_are_those_of_differences(loss):
    assert torch.autograd.gradcheck(loss, (unit(8, 3, seed=4).requires_grad_(),))


def test_no_point_is_no_loss():
    none = torch.zeros(0, 4, requires_grad=True)
    left_out = torch.zeros(0, 0, dtype=torch.bool)
    right = nearest_right(none, none, torch.zeros(0, dtype=torch.int64), left_out)
    total = dual_softmax(none, none, left_out, T) + reliability(none[:, 0], right)
    total.backward()
    assert float(total.detach()) == 0 and right.shape == (0,) and right.dtype == torch.bool
