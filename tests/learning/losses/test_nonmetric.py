"""The regression to a learned similarity against a loop over Eq. 12, and what it learns."""

import pytest
import torch

from resight.learning.losses.nonmetric import NonMetricLoss
from resight.search.rerank.nonmetric import SimilarityNetwork


@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_the_equation(draw, pairs_of, seed):
    x, labels = draw(seed=seed, unit=False)
    loss = NonMetricLoss(SimilarityNetwork(5, (7, 6), seed=seed).double(), 0.3)
    positives, negatives = pairs_of(labels)

    def term(i, j, s):
        cosine = float(x[i] @ x[j] / x[i].norm() / x[j].norm())
        learned = loss.network.layers(torch.cat([x[i], x[j]])).item()
        return abs(learned - s * (cosine + 0.3) - (1 - s) * (cosine - 0.3))

    expected = [term(i, j, 1) for i, j in positives] + [term(i, j, 0) for i, j in negatives]
    assert loss(x, labels).item() == pytest.approx(sum(expected) / len(expected))
    chosen = *torch.tensor(positives[:1]).T, *torch.tensor(negatives[:3]).T
    expected = [term(*positives[0], 1), *(term(i, j, 0) for i, j in negatives[:3])]
    assert loss(x, labels, chosen).item() == pytest.approx(sum(expected) / 4)


def test_only_the_network_learns(draw):
    x, labels = draw(seed=4)
    x.requires_grad_()
    loss = NonMetricLoss(SimilarityNetwork(5, (8,)).double())
    loss(x, labels).backward()
    assert loss.freezes_backbone and x.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())


def test_it_learns_what_the_cosine_does_not_say(draw):
    """Two things that look alike, whose pictures differ by one coordinate: the learned order of pairs is the better."""
    generator = torch.Generator().manual_seed(0)

    def pictures(n):
        labels = torch.arange(n) % 2
        x = torch.randn(n, 4, generator=generator)
        x[:, 0] = 2.0 * labels - 1
        return torch.nn.functional.normalize(x), labels

    def apart(similarity, labels):
        """The share of (matching, other) pairs of pairs that are in order."""
        same = labels[:, None] == labels[None]
        off = ~torch.eye(len(labels), dtype=torch.bool)
        return (similarity[same & off][:, None] > similarity[~same][None]).float().mean().item()

    loss = NonMetricLoss(SimilarityNetwork(4, (32, 32), seed=1), 0.5)
    optimiser = torch.optim.Adam(loss.parameters(), 3e-3)
    x, labels = pictures(64)
    first = loss(x, labels).item()
    for _ in range(80):
        optimiser.zero_grad()
        loss(x, labels).backward()
        optimiser.step()
    assert loss(x, labels).item() < 0.7 * first
    unseen, of = pictures(40)
    rows = torch.cartesian_prod(torch.arange(40), torch.arange(40)).T
    learned = loss.network.of_rows(unseen, unseen, *rows).view(40, 40).detach()
    assert apart(learned, of) > apart(unseen @ unseen.T, of) + 0.1


def test_values_out_of_range():
    with pytest.raises(ValueError, match="margin"):
        NonMetricLoss(SimilarityNetwork(3, (2,)), -1)
