"""Group-group loss against loops over groups, and a case worked by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.learning.losses.group import GroupGroupLoss


def unit(v):
    length = math.hypot(*v)
    return [e / length for e in v]


def naive(x, labels, threshold):
    groups = {}
    for row, label in zip(x.tolist(), labels.tolist(), strict=True):
        groups.setdefault(label, []).append(unit(row))
    centres = {g: unit([sum(column) / len(rows) for column in zip(*rows, strict=True)]) for g, rows in groups.items()}
    within = [math.dist(row, centres[g]) ** 2 for g, rows in groups.items() for row in rows]
    names, between, number = list(centres), 0.0, 0
    for k, i in enumerate(names):
        for j in names[k + 1 :]:
            similarity = sum(a * b for a, b in zip(centres[i], centres[j], strict=True))
            between += similarity if similarity > threshold else 0
            number += 1
    return sum(within) / len(within) + between / max(number, 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 99), st.sampled_from([-1.0, 0.0, 0.4]))
def test_it_is_that_of_the_loops(draw, sizes, seed, threshold):
    x, labels = draw(tuple(sizes), seed=seed, unit=False)
    assert GroupGroupLoss(threshold)(x, labels).item() == pytest.approx(naive(x, labels, threshold), abs=1e-9)


def test_by_hand():
    """Rows at 0° and 60° of one group, its centre at 30°, and one at 75°: twice 2 − 2cos 30° in three, and cos 45°."""
    angles = torch.deg2rad(torch.tensor([0.0, 60.0, 75.0], dtype=torch.float64))
    x, labels = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([7, 7, 2])
    within = 2 * (2 - math.sqrt(3)) / 3
    assert GroupGroupLoss(0.4)(x, labels).item() == pytest.approx(within + math.sqrt(0.5))
    assert GroupGroupLoss(0.8)(x, labels).item() == pytest.approx(within)
    with pytest.raises(ValueError, match="threshold"):
        GroupGroupLoss(1.5)
