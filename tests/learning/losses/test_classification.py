"""Cross-entropy, ArcFace and CosFace against loops in plain floats, and against pytorch-metric-learning."""

import math

import pytest
import torch
from pytorch_metric_learning import losses as library

from resight.learning.losses.classification import ArcFaceLoss, CosFaceLoss, CrossEntropyLoss, arcface

CLASSES = 4


def minus_log_softmax(logits, label):
    top = max(logits)
    return top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label]


def cosines(row, weight):
    row, weight = row.tolist(), weight.tolist()
    return [sum(a * b for a, b in zip(row, w, strict=True)) / math.hypot(*row) / math.hypot(*w) for w in weight]


def naive(loss, x, labels, logits_of):
    terms = [minus_log_softmax(logits_of(row, label), label) for row, label in zip(x, labels.tolist(), strict=True)]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_cross_entropy(draw, normalised, bias):
    x, labels = draw(seed=1, unit=False)
    loss = CrossEntropyLoss(5, CLASSES, 3, normalised=normalised, temperature=0.2, bias=bias).double()
    if bias:
        with torch.no_grad():
            loss.bias.copy_(torch.tensor([0.4, -1.0, 0.2, 0.0]))
    offset = loss.bias.tolist() if bias else [0.0] * CLASSES

    def logits(row, _):
        similarity = cosines(row, loss.weight) if normalised else (loss.weight @ row).tolist()
        return [s / 0.2 + o for s, o in zip(similarity, offset, strict=True)]

    assert loss(x, labels).item() == pytest.approx(naive(loss, x, labels, logits))


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.5, 3.0])
def test_arcface(draw, margin):
    """With angles in radians, and its continuation beyond π − m where rows lie opposite to their class."""
    x, labels = draw(seed=2, unit=False)
    loss = ArcFaceLoss(5, CLASSES, 0, margin=margin, scale=8).double()
    x = torch.cat([x, -loss.weight[:1].detach(), loss.weight[:1].detach() + 0.1])
    labels = torch.cat([labels, torch.tensor([0, 0])])

    def logits(row, label):
        found = cosines(row, loss.weight)
        angle = math.acos(max(-1, min(1, found[label])))
        beyond = angle > math.pi - margin
        found[label] = found[label] - margin * math.sin(margin) if beyond else math.cos(angle + margin)
        return [8 * s for s in found]

    assert loss(x, labels).item() == pytest.approx(naive(loss, x, labels, logits), rel=1e-6)


def test_cosface(draw):
    x, labels = draw(seed=3, unit=False)
    loss = CosFaceLoss(5, CLASSES, 0, margin=0.35, scale=16).double()

    def logits(row, label):
        return [16 * (s - 0.35 * (c == label)) for c, s in enumerate(cosines(row, loss.weight))]

    assert loss(x, labels).item() == pytest.approx(naive(loss, x, labels, logits))


def test_they_are_the_librarys(draw):
    """Which gives ArcFace's margin in degrees."""
    x, labels = draw(seed=4)
    for ours, theirs in (
        (ArcFaceLoss(5, CLASSES, 0).double(), library.ArcFaceLoss(CLASSES, 5, margin=math.degrees(0.5))),
        (CosFaceLoss(5, CLASSES, 0).double(), library.CosFaceLoss(CLASSES, 5)),
    ):
        with torch.no_grad():
            theirs.W = torch.nn.Parameter(ours.weight.T.clone())
        assert ours(x, labels).item() == pytest.approx(theirs(x, labels).item())


def test_arcface_has_a_gradient_along_its_class():
    """Where the arc cosine, and with it the library's loss, has none."""
    cosine = torch.tensor([[1.0, 0.2], [-0.3, -1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(arcface(cosine, torch.tensor([0, 1])).sum(), cosine)
    assert gradient.isfinite().all()
    x = torch.eye(5)[:3].requires_grad_()
    theirs = library.ArcFaceLoss(3, 5)
    ours = ArcFaceLoss(5, 3, 0)
    with torch.no_grad():
        theirs.W.copy_(torch.eye(5)[:, :3])
        ours.weight.copy_(torch.eye(5)[:3])
    assert torch.autograd.grad(theirs(x, torch.arange(3)), x)[0].isnan().any()
    assert torch.autograd.grad(ours(x, torch.arange(3)), x)[0].isfinite().all()


def test_half_precision_leaves_the_classifier_as_it_is(draw):
    x, labels = draw(seed=5)
    loss = ArcFaceLoss(5, CLASSES, 0)
    found = loss(x.half(), labels)
    assert found.dtype == loss.weight.dtype == torch.float32
    assert found.item() == pytest.approx(loss(x.half().float(), labels).item())


def test_labels_beyond_the_classes_and_values_out_of_range(draw):
    x, labels = draw(seed=6)
    for loss in (CrossEntropyLoss(5, 3, 0), ArcFaceLoss(5, 3, 0), CosFaceLoss(5, 3, 0)):
        with pytest.raises(ValueError, match="from 0 to 2"):
            loss(x, labels)
    for make in (
        lambda: CrossEntropyLoss(5, 0, 0),
        lambda: CrossEntropyLoss(5, 3, 0, temperature=0),
        lambda: ArcFaceLoss(5, 3, 0, margin=math.pi),
        lambda: ArcFaceLoss(5, 3, 0, scale=0),
        lambda: CosFaceLoss(5, 3, 0, margin=-1),
    ):
        with pytest.raises(ValueError, match=r"classes|temperature|margin"):
            make()
