"""IRT's loss against loops, and its entropy against that of distributions with a known one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.learning.losses.entropy import EntropySiameseLoss, koleo


def naive(x, labels, margin, weight):
    z = [[e / math.hypot(*row) for e in row] for row in x.tolist()]
    n, contrastive, logs = len(z), 0.0, 0.0
    for i in range(n):
        for j in range(n):
            cosine = sum(a * b for a, b in zip(z[i], z[j], strict=True))
            if i != j:
                contrastive += 1 - cosine if labels[i] == labels[j] else max(0, cosine - margin)
        if n > 1:
            logs += math.log(min(math.dist(z[i], z[j]) for j in range(n) if j != i))
    return contrastive / n - weight * logs / n


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 99), st.floats(-0.5, 0.9), st.floats(0, 2))
def test_it_is_that_of_the_loops(draw, sizes, seed, margin, weight):
    x, labels = draw(tuple(sizes), seed=seed, unit=False)
    found = EntropySiameseLoss(margin, weight)(x, labels).item()
    assert found == pytest.approx(naive(x, labels, margin, weight), abs=1e-6)


def test_it_estimates_entropy():
    """On a circle, with Kozachenko and Leonenko's constants, log 2π less log of the share of it that points keep to."""
    generator, n = torch.Generator().manual_seed(0), 3000
    for share in (1.0, 0.25):
        angles = 2 * math.pi * share * torch.rand(n, generator=generator, dtype=torch.float64)
        entropy = -koleo(torch.stack([angles.cos(), angles.sin()], 1)).item()
        estimate = entropy + math.log(2) + math.log(n - 1) + 0.5772156649
        assert estimate == pytest.approx(math.log(2 * math.pi * share), abs=0.08)


def test_a_picture_twice_in_a_batch_is_finite(draw):
    x, labels = draw(seed=1)
    x = torch.cat([x, x[:1]]).float().requires_grad_()
    loss = EntropySiameseLoss()(x, torch.cat([labels, labels[:1]]))
    assert loss.isfinite() and torch.autograd.grad(loss, x)[0].isfinite().all()


def test_values_out_of_range():
    for margin, weight in ((1, 0.7), (0.5, -1)):
        with pytest.raises(ValueError, match="margin"):
            EntropySiameseLoss(margin, weight)
