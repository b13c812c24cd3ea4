"""Regional hashing: its loss, codes that come near their outputs, and images by their best regions, by a loop."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.errors import RecipeError  # noqa: E402
from resight.hashing import region_similarity as module  # noqa: E402
from resight.hashing.codes import pack, unpack  # noqa: E402
from resight.hashing.region_similarity import region_similarity  # noqa: E402
from resight.hashing.regional import fit_regional, regional_loss  # noqa: E402
from resight.hashing.training import Descent  # noqa: E402


def draw_codes(n, bits=16, seed=0):
    return pack(np.random.default_rng(seed).random((n, bits)) > 0.5)


def naive_similarity(query, images):
    found = []
    for codes in images:
        best = 0.0
        for a in unpack(query):
            for b in unpack(codes):
                best = max(best, sum(p == q for p, q in zip(a, b, strict=True)) / len(a))
        found.append(best)
    return found


@pytest.mark.parametrize("block", [1, 7, 1 << 26])
def test_similarity_by_a_loop(monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK_BYTES", block)
    images = [draw_codes(n, seed=n) for n in (3, 1, 0, 0, 5, 2, 0)]
    offsets = np.cumsum([0, *map(len, images)])
    query = draw_codes(2, seed=99)
    found = region_similarity(query, np.concatenate(images), offsets)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive_similarity(query, images), atol=1e-6)


def test_an_image_that_holds_the_query_is_wholly_similar():
    codes = draw_codes(6)
    np.testing.assert_array_equal(region_similarity(codes[4:5], codes, np.array([0, 3, 6]))[1:], [1])
    assert len(region_similarity(codes, codes[:0], np.array([0]))) == 0


@pytest.mark.parametrize("offsets", [[0, 4, 3, 6], [1, 6], [0, 5], []])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(ValueError, match="offsets must ascend"):
        region_similarity(draw_codes(1), draw_codes(6), np.array(offsets, int))


def test_codes_that_do_not_fit_are_refused():
    for query in (draw_codes(0), draw_codes(1, bits=8), draw_codes(2)[0]):
        with pytest.raises(ValueError, match="codes must be"):
            region_similarity(query, draw_codes(6), np.array([0, 6]))


def test_loss_by_a_loop_and_by_finite_differences():
    f = np.random.default_rng(0).normal(size=(6, 4))
    quantised = np.mean([(v - (1 if v > 0 else -1)) ** 2 for v in f.ravel()])
    even = np.mean([np.mean(column) ** 2 for column in f.T])
    w = np.random.default_rng(1).normal(size=(4, 7))
    products = [[w[a] @ w[b] - (a == b) for a in range(4)] for b in range(4)]
    shares = {"quantisation": 0.5, "balance": 2.0, "orthogonality": 0.3}
    tensors = torch.from_numpy(f).requires_grad_(), torch.from_numpy(w).requires_grad_()
    expected = 0.5 * quantised + 2 * even + 0.3 * np.sum(np.square(products)) / 4
    assert regional_loss(*tensors, **shares).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x, weight: regional_loss(x, weight, **shares), tensors)


def photos(seed, clusters):
    """Each image holds a region of its thing and five of other things; what a query shows of it; and the things."""
    (x, labels), rng = clusters(things=48, each=6, seed=seed), np.random.default_rng(seed)
    shown, clutter = x[labels < 16], x[labels >= 16]
    images = [np.concatenate([region[None], clutter[rng.choice(len(clutter), 5)]]) for region in shown]
    return images, shown, labels[labels < 16]


def region_map(function, images, queries, labels):
    codes = function.encode(np.concatenate(images))
    offsets = np.arange(0, 6 * len(images) + 1, 6)
    hits = []
    for i, query in enumerate(queries):
        similarity = region_similarity(function.encode(query[None]), codes, offsets)
        similarity[i] = -1  # itself
        best = np.argsort(-similarity, kind="stable")[:5]
        hits.append((labels[best] == labels[i]).mean())
    return np.mean(hits)


def test_training_lowers_the_loss_and_regions_find_their_like(clusters):
    images, _, _ = photos(0, clusters)
    held_out, queries, labels = photos(1, clusters)
    losses = []
    learned = fit_regional(images, 16, seed=0, fitted_on="x", on_epoch=lambda _, loss: losses.append(loss))
    untrained = fit_regional(images, 16, seed=0, fitted_on="x", descent=Descent(epochs=0))
    assert learned.n == 6 * len(images)
    assert losses[-1] < 0.6 * losses[0]
    assert region_map(learned, held_out, queries, labels) > region_map(untrained, held_out, queries, labels) + 0.1


def test_bad_regions_are_refused():
    with pytest.raises(ValueError, match="same D"):
        fit_regional([np.zeros((2, 3)), np.zeros((2, 4))], 8, seed=0, fitted_on="")
    with pytest.raises(RecipeError, match="no regions"):
        fit_regional([], 8, seed=0, fitted_on="")
