"""Gradients chunk by chunk are those of the whole batch at once, by autograd."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from resight.learning.caching import backward, drawing

LABELS = torch.arange(4).repeat(6)
DRAW = torch.Generator().manual_seed(0)
PICTURES = torch.randn(24, 3, 1, 1, generator=DRAW) * torch.rand(24, 3, 9, 9, generator=DRAW)


def siamese(x, labels):
    d = (x[:, None] - x[None]).square().sum(2)
    same = labels[:, None] == labels[None]
    return torch.where(same, d, (0.7 - d).clamp_min(0)).mean()


def triplet(x, labels):
    d = (x[:, None] - x[None]).square().sum(2)
    same = labels[:, None] == labels[None]
    return (0.1 + d[:, :, None] - d[:, None, :]).clamp_min(0)[same[:, :, None] & ~same[:, None, :]].mean()


def smooth_ap(x, labels):
    s = x @ x.T
    above = torch.sigmoid((s[:, None, :] - s[:, :, None]) / 0.05)
    same = (labels[:, None] == labels[None]).to(x)
    rank_in, rank = (above * same[:, None, :]).sum(2) + 0.5, above.sum(2) + 0.5
    return 1 - (rank_in / rank * same).sum() / same.sum()


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5, generator=torch.Generator().manual_seed(1)))

    def forward(self, x, labels):
        return cross_entropy(9 * x @ self.weight.T, labels)


def network(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
        )
    return made.to(dtype)


def gradients(net, loss, chunks, dtype, *, precision=None, scale=1.0):
    """Gradients and loss by ``backward``, of all parameters in order."""
    pictures = PICTURES.to(dtype)
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        passed = backward(
            np.split(np.arange(24), chunks),
            lambda places: normalize(net(pictures[places]).to(dtype)),
            lambda x: loss(x, LABELS),
            lambda value: (value * scale).backward(),
            seed=11,
        )
    both = [*net.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else [])]
    return passed, [parameter.grad / scale for parameter in both]


def whole(net, loss, chunks, dtype):
    """The same by one graph of the whole batch, with the same dropout in each chunk."""
    pictures = PICTURES.to(dtype)
    parts = []
    for place, places in enumerate(np.split(np.arange(24), chunks)):
        with drawing(11, place, torch.device("cpu")):
            parts.append(normalize(net(pictures[places])))
    value = loss(torch.cat(parts), LABELS)
    both = [*net.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else [])]
    return value, torch.autograd.grad(value, both)


@pytest.mark.parametrize("chunks", [1, 2, 8, 24])
@pytest.mark.parametrize("loss", [siamese, triplet, smooth_ap, Classifier()], ids=["siamese", "triplet", "ap", "ce"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gradients_are_those_of_the_whole_batch(loss, chunks, dtype, close):
    if isinstance(loss, nn.Module):
        loss = loss.to(dtype)
        loss.zero_grad()
    value, wanted = whole(network(dtype), loss, chunks, dtype)
    passed, found = gradients(network(dtype), loss, chunks, dtype)
    assert passed.loss == pytest.approx(value.item(), rel=1e-5)
    assert passed.descriptors.shape == (24, 5) and not passed.descriptors.requires_grad
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=close * float(b.abs().max()), rtol=0)
        assert float(b.abs().max()) > 1e-4


def test_a_scale_of_mixed_precision_counts_once():
    for loss in (siamese, Classifier()):
        _, plain = gradients(
            network(torch.float64), loss.double() if isinstance(loss, nn.Module) else loss, 6, torch.float64
        )
        if isinstance(loss, nn.Module):
            loss.zero_grad()
        _, scaled = gradients(network(torch.float64), loss, 6, torch.float64, scale=65536.0)
        for a, b in zip(scaled, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_weights_that_autocast_keeps_have_a_graph_in_the_second_pass():
    net = network(torch.float32)
    _, found = gradients(net, siamese, 4, torch.float32, precision=torch.bfloat16)
    _, wanted = whole(network(torch.float32), siamese, 4, torch.float32)
    for a, b in zip(found, wanted, strict=True):
        assert float((a - b).norm() / b.norm()) < 0.1


def test_the_second_pass_repeats_the_first_and_torchs_own_state_is_left_alone():
    before, seen = torch.get_rng_state(), {}
    net = network(torch.float32)

    def embed(places):
        x = normalize(net(torch.ones(len(places), 3, 5, 5)))
        seen.setdefault(tuple(places), []).append(x.detach())
        return x

    backward(np.split(np.arange(24), 4), embed, lambda x: siamese(x, LABELS), lambda v: v.backward(), seed=5)
    assert len(seen) == 4
    for first, second in seen.values():
        assert torch.equal(first, second)
    assert not torch.equal(*[x[0] for x in list(seen.values())[:2]])  # chunks differ
    assert torch.equal(before, torch.get_rng_state())


def test_chunks_of_several_lengths_and_a_loss_that_nothing_moves():
    net = nn.Linear(3, 2)
    chunks = [torch.ones(1, 3), torch.ones(4, 3), torch.ones(2, 3)]
    passed = backward(chunks, net, lambda x: x[1].sum(), lambda v: v.backward(), seed=0)
    assert passed.descriptors.shape == (7, 2)
    assert torch.equal(net.bias.grad, torch.ones(2)) and torch.equal(net.weight.grad, torch.ones(2, 3))
    net.zero_grad()
    backward(chunks, net, lambda x: torch.zeros(()), lambda v: v.backward(), seed=0)
    assert not net.weight.grad.any()
    with pytest.raises(ValueError, match="chunk"):
        backward([], net, lambda x: x.sum(), lambda v: v.backward(), seed=0)


def test_inputs_are_asked_for_once_in_each_pass():
    asked = []

    def feed(chunks):
        asked.append(list(chunks))
        return (torch.full((2, 3), float(chunk)) for chunk in chunks)

    net = nn.Linear(3, 2)
    passed = backward([1, 2, 3], net, lambda x: x.square().sum(), lambda v: v.backward(), seed=0, feed=feed)
    assert asked == [[1, 2, 3]] * 2
    torch.testing.assert_close(passed.descriptors[2], net(torch.full((3,), 2.0)).detach())


def test_one_hot_oracle_of_the_classifier():
    """The classifier's gradient by hand: 9·(softmax − one-hot)ᵀx / B."""
    loss = Classifier().double()
    passed, found = gradients(network(torch.float64), loss, 3, torch.float64)
    x = passed.descriptors
    wrong = torch.softmax(9 * x @ loss.weight.T, 1) - one_hot(LABELS, 4)
    torch.testing.assert_close(found[-1], (9 * wrong.T @ x / 24).detach())
