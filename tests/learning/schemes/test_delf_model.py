"""A DELF head as it learns: against the one that describes, plain arithmetic, and what gradients must not reach."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from resight.learning.losses.classification import CrossEntropyLoss  # noqa: E402
from resight.learning.schemes.delf_model import (  # noqa: E402
    attend,
    follow,
    head_features,
    head_rows,
    hidden_moments,
    new_head,
)
from resight.local.delf import Delf, DelfHead, read_delf_head  # noqa: E402
from resight.local.maps import Cells, FeatureMap  # noqa: E402
from resight.pooling.delf_attention import DelfAttention  # noqa: E402

C = 6


def some_maps(count=3, shape=(4, 5)):
    return torch.randn(count, C, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reduced", [None, 4])
def test_scores_and_features_are_those_that_describe(tmp_path, reduced):
    """At the same positions, after the head has been through a file."""
    head, maps = new_head(C, reduced, seed=2), some_maps()
    follow(head.attention, hidden_moments(head.attention, attend(head, maps).scored))
    attended = attend(head, maps)
    safetensors.torch.save_file(head.state_dict(), tmp_path / "head.safetensors")
    detector = Delf(head=read_delf_head(tmp_path / "head.safetensors"), top=1000, reduce="none")
    for values, scores in zip(maps, attended.scores.detach(), strict=True):
        found = detector.detect([FeatureMap(values.numpy(), Cells(1, 0), (5, 4), (5, 4))])
        column, row = found.xy.round().astype(int).T
        np.testing.assert_allclose(found.score, scores[0].numpy()[row, column], atol=1e-5)
        described = values if reduced is None else head.autoencoder(values[None])[0][0].detach()
        expected = described.numpy()[:, row, column].T
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found.descriptors, expected, atol=1e-5)


@pytest.mark.parametrize("reduced", [None, 4])
def test_an_images_vector_is_the_mean_of_weighted_unit_features(reduced):
    head, maps = new_head(C, reduced, seed=2), some_maps()
    attended = attend(head, maps)
    for image in range(len(maps)):
        total = 0.0
        for r, c in np.ndindex(4, 5):
            feature = attended.scored[image, :, r, c].detach().numpy().astype(float)
            total = total + attended.scores[image, 0, r, c].item() * feature / np.linalg.norm(feature)
        np.testing.assert_allclose(attended.pooled[image].detach(), total / 20, atol=1e-5)


@pytest.mark.parametrize("reduced", [None, 4])
def test_losses_are_cross_entropy_and_ten_times_the_squared_difference(reduced):
    """Entry by entry."""
    head, maps, labels = new_head(C, reduced, seed=2), some_maps(), torch.tensor([2, 0, 1])
    classifier = CrossEntropyLoss(C, 3, seed=1)
    features = head_features(head, maps)
    rows = head_rows(features, labels, classifier).detach().numpy()
    attended = attend(head, maps)
    for image in range(3):
        made, given = attended.scored[image].detach().numpy(), maps[image].numpy()
        squares = [(float(a) - float(b)) ** 2 for a, b in zip(made.flat, given.flat, strict=True)]
        weight, bias = classifier.weight.detach().numpy(), classifier.bias.detach().numpy()
        logits = weight @ attended.pooled[image].detach().numpy() + bias
        entropy = -np.log(np.exp(logits[labels[image]]) / np.exp(logits).sum())
        expected = [entropy + 10 * np.mean(squares), logits.argmax() == labels[image], np.mean(squares)]
        np.testing.assert_allclose(rows[image, :3], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rows[:, 3:], hidden_moments(head.attention, attended.scored), atol=1e-6)


def test_maps_get_no_gradient():
    head = new_head(C, 4, seed=2)
    maps = some_maps().requires_grad_()
    head_rows(head_features(head, maps), torch.tensor([2, 0, 1]), CrossEntropyLoss(C, 3, seed=1))[:, 0].sum().backward()
    assert maps.grad is None and all(p.grad is not None for p in head.parameters())


def test_a_seed_alone_decides_the_start():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    heads = [new_head(C, 4, seed) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert heads[0].fingerprint == heads[1].fingerprint != heads[2].fingerprint
    weights = new_head(500, None, seed=3).attention.conv1.weight
    assert weights.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)


def test_statistics_are_those_of_the_scorers_first_layer():
    """numpy's mean and variance for the first batch; then a step of the momentum, however the batch was cut."""
    attention = new_head(C, None, seed=2).attention
    hidden = [attention.conv1(some_maps(4, shape)).detach().numpy().astype(float) for shape in [(4, 5), (3, 3)]]
    follow(attention, hidden_moments(attention, some_maps(4, (4, 5))))
    mean, var = hidden[0].mean((0, 2, 3)), hidden[0].var((0, 2, 3))
    np.testing.assert_allclose(attention.bn_conv1.running_mean, mean, atol=1e-5)
    np.testing.assert_allclose(attention.bn_conv1.running_var, var, rtol=1e-4)
    second = some_maps(4, (3, 3))
    follow(attention, torch.cat([hidden_moments(attention, second[:1]), hidden_moments(attention, second[1:])]))
    np.testing.assert_allclose(
        attention.bn_conv1.running_mean, 0.99 * mean + 0.01 * hidden[1].mean((0, 2, 3)), atol=1e-5
    )
    # The second batch's spread is about the mean it has itself.
    np.testing.assert_allclose(
        attention.bn_conv1.running_var, 0.99 * var + 0.01 * hidden[1].var((0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    assert int(attention.bn_conv1.num_batches_tracked) == 2


def test_a_scorer_without_normalisation_has_no_statistics():
    attention = DelfHead(DelfAttention(C, 4, normalise=False)).attention
    before = {name: tensor.clone() for name, tensor in attention.state_dict().items()}
    moments = hidden_moments(attention, some_maps())
    assert moments.shape == (3, 0)
    follow(attention, moments)
    assert all(torch.equal(before[name], tensor) for name, tensor in attention.state_dict().items())
