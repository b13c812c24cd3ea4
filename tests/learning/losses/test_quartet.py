"""Quartet-net's loss is the double margin's plus the mean squared distance from the original descriptors."""

import pytest
import torch

from resight.learning.losses.quartet import QuartetLoss
from resight.learning.losses.siamese import DoubleMarginLoss


def test_it_is_the_sum(draw, squared):
    x, labels = draw(seed=1)
    original, _ = draw(seed=2)
    mimic = sum(squared(a, b) for a, b in zip(x, original, strict=True)) / len(x)
    expected = DoubleMarginLoss(0.3, 1.2)(x, labels).item() + 0.7 * mimic
    assert QuartetLoss(0.3, 1.2, 0.7)(x, labels, original=original).item() == pytest.approx(expected)


def test_the_gradient_pulls_towards_the_original(draw):
    x, labels = draw(seed=1)
    original, _ = draw(seed=2)
    x.requires_grad_()
    plain, whole = QuartetLoss(0.3, 1.2, 0.0), QuartetLoss(0.3, 1.2, 0.7)
    (without,) = torch.autograd.grad(plain(x, labels), x)
    (gradient,) = torch.autograd.grad(whole(x, labels, original=original), x)
    torch.testing.assert_close(gradient - without, 0.7 * 2 * (x.detach() - original) / len(x))
    assert torch.autograd.gradcheck(lambda v: whole(v, labels, original=original), (x,))


def test_the_original_is_asked_for(draw):
    x, labels = draw()
    with pytest.raises(ValueError, match="not nothing"):
        QuartetLoss()(x, labels)
    with pytest.raises(ValueError, match="network as it was"):
        QuartetLoss()(x, labels, original=x[:3])
    assert QuartetLoss(weight=0)(x, labels) == DoubleMarginLoss()(x, labels)
    with pytest.raises(ValueError, match="weight"):
        QuartetLoss(weight=-1)
