"""DSTH: its graph by a loop, its labels by a dense eigensolver, and a network that predicts them."""

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.sparse import csr_array

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.hashing.codes import unpack  # noqa: E402
from resight.hashing.dsth import dsth_loss, fit_dsth, neighbour_graph, pseudo_labels  # noqa: E402
from resight.hashing.training import Descent  # noqa: E402


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def naive_graph(x, k):
    cosines = np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in x] for a in x.astype(float)])
    weights = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: -cosines[i, j])
        for j in others[:k]:
            weights[i, j] = weights[j, i] = max(cosines[i, j], 1e-3)
    return weights


def test_graph_by_a_loop():
    x = draw(25, 3) * np.linspace(0.1, 5, 25, dtype=np.float32)[:, None]
    np.testing.assert_allclose(neighbour_graph(x, 4).toarray(), naive_graph(x, 4), atol=1e-6)


def test_opposed_and_equal_vectors():
    opposed = neighbour_graph(np.array([[1, 0], [-1, 0]], np.float32), 1).toarray()
    np.testing.assert_allclose(opposed, [[0, 1e-3], [1e-3, 0]])
    equal = neighbour_graph(np.ones((20, 2), np.float32), 2).toarray()
    assert not equal.diagonal().any()
    assert (np.count_nonzero(equal, axis=1) >= 2).all()
    assert np.count_nonzero(equal) / 2 <= 20 * 2
    np.testing.assert_allclose(equal[equal > 0], 1, atol=1e-6)


def test_labels_by_a_dense_eigensolver():
    graph = neighbour_graph(draw(60, 5), 12)
    dense = graph.toarray()
    degrees = np.diag(dense.sum(axis=1))
    values, vectors = eigh(degrees - dense, degrees)
    assert values[1] > 1e-3  # connected, so that the first alone is constant
    assert np.diff(values[1:10]).min() > 1e-4  # and the others are determined
    expected = vectors[:, 1:9] > np.median(vectors[:, 1:9], axis=0)
    found = pseudo_labels(graph, 8, seed=0)
    agreement = (found == expected).mean(axis=0)
    np.testing.assert_array_equal(np.maximum(agreement, 1 - agreement), 1)  # an eigenvector's sign is anybody's
    np.testing.assert_array_equal(found.sum(axis=0), 30)


def test_parts_of_a_graph_are_told_apart():
    parts = np.kron(np.eye(2), np.ones((20, 20))) - np.eye(40)
    labels = pseudo_labels(csr_array(parts), 8, seed=3)[:, 0]
    assert labels[:20].all() != labels[20:].all()
    assert labels[:20].any() != labels[20:].any()


def test_loss_by_a_loop_and_by_finite_differences():
    outputs, labels = draw(4, 3).astype(float), draw(4, 3, seed=1) > 0
    expected = 0.0
    for f, bit in zip(outputs.ravel(), labels.ravel(), strict=True):
        probability = 1 / (1 + np.exp(-f))
        expected -= np.log(probability if bit else 1 - probability) / outputs.size
    tensor = torch.from_numpy(outputs).requires_grad_()
    assert dsth_loss(tensor, torch.from_numpy(labels)).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda f: dsth_loss(f, torch.from_numpy(labels)), tensor)


def test_the_network_learns_the_labels_and_codes_beat_a_random_network(clusters, mean_ap):
    (x, _), (held_out, labels) = clusters(seed=0), clusters(seed=1)
    losses = []
    learned = fit_dsth(
        x,
        16,
        seed=0,
        fitted_on="x",
        hidden=64,
        descent=Descent(epochs=100, rate=3e-3),
        on_epoch=lambda _, loss: losses.append(loss),
    )
    untrained = fit_dsth(x, 16, seed=0, fitted_on="x", hidden=64, descent=Descent(epochs=0))
    assert losses[-1] < 0.3 * losses[0]
    proposed = pseudo_labels(neighbour_graph(x, 10), 16, seed=0)
    assert (unpack(learned.encode(x)) == proposed).mean() > 0.95
    assert mean_ap(learned, held_out, labels) > mean_ap(untrained, held_out, labels) + 0.15


def test_too_few_photos_are_refused():
    with pytest.raises(RecipeError, match="graph of 10 neighbours needs more than 10 photos; here are 9"):
        fit_dsth(draw(9, 4), 8, seed=0, fitted_on="")
    with pytest.raises(RecipeError, match="16 bits are learned from more than 17 photos"):
        fit_dsth(draw(17, 4), 16, seed=0, fitted_on="")
    with pytest.raises(ValueError, match="1 neighbour or more"):
        neighbour_graph(draw(9, 4), 0)
