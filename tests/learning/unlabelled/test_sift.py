"""SIFT's neighbours as supervision, and fidelity to the network as it was."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.embedding.bow import Bow  # noqa: E402
from resight.embedding.codebook import choose_words  # noqa: E402
from resight.errors import RecipeError  # noqa: E402
from resight.learning.datasets.photos import Photo  # noqa: E402
from resight.learning.losses.fidelity import FidelityLoss  # noqa: E402
from resight.learning.losses.siamese import SiameseLoss  # noqa: E402
from resight.learning.unlabelled.sift import pools_of_sift, sift_neighbours  # noqa: E402
from resight.learning.unlabelled.stages import SiftStage  # noqa: E402
from resight.learning.unlabelled.verified import rootsift_of  # noqa: E402

THINGS = ("astronaut", "chelsea", "coffee", "rocket", "brick", "moon")


def stage(**given):
    return SiftStage.model_validate({"kind": "sift", "features": 200, "max_side": 160, "near": 5} | given)


@pytest.fixture(scope="module")
def views(tmp_path_factory, pictures, view, save):
    """Two views of each of six things, the first views and then the second."""
    folder = tmp_path_factory.mktemp("views")
    return [
        Photo(save(folder / f"{seed}-{name}.png", view(pictures[name], seed)[0]), place)
        for place, (seed, name) in enumerate((seed, name) for seed in range(2) for name in THINGS)
    ]


def test_the_nearest_is_the_other_view(views):
    rows = sift_neighbours(views, stage())
    assert rows.shape == (12, 5)
    assert sum(int(row[0]) == (place + 6) % 12 for place, row in enumerate(rows)) >= 11
    np.testing.assert_array_equal(rows, sift_neighbours(views, stage()))


def test_they_are_ranked_by_the_cosine_of_idf(views):
    """As ``Bow`` with its own idf, counted by another reading, ranks them; a photo without words has no neighbours."""
    given = stage(words=64, near=11)
    features = [rootsift_of(photo, features=200, max_side=160)[0].descriptors.astype(np.float32) for photo in views]
    bow = Bow.fit(np.concatenate(features), 64, seed=3, fitted_on="views", root=True).fit_idf(features)
    x = bow.transform_sets(features)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -1)
    rows = sift_neighbours(views, given, seed=3)
    found = np.take_along_axis(cosines, rows, axis=1)
    np.testing.assert_allclose(found, -np.sort(-cosines, axis=1)[:, :11], atol=1e-5)
    assert choose_words(2400) == 128  # of twelve photos with 200 features, where nothing is asked for


def test_what_shares_no_word_is_no_neighbour(views, save, tmp_path):
    blank = save(tmp_path / "blank.png", np.full((120, 160, 3), 90, np.uint8))
    rows = sift_neighbours([*views, Photo(blank, 12)], stage(near=12))
    assert (rows[12] == -1).all() and 12 not in rows[:12]
    with pytest.raises(RecipeError, match=r"2 photos have 0 SIFT features, too few for 1 words"):
        sift_neighbours([Photo(blank, 0), Photo(blank, 1)], stage())
    with pytest.raises(RecipeError, match=r"too few for 5000 words.*unlabelled\.words"):
        sift_neighbours(views, stage(words=5000))


def test_pools_are_what_the_network_does_not_see():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(30, 6)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    rows = np.array([rng.permutation(np.delete(np.arange(30), n))[:8] for n in range(30)])
    rows[4, 1:] = -1  # which shares words with one photo only
    for reciprocal in (True, False):
        given = stage(positives=6, near=8, k=10, reciprocal=reciprocal)
        pools = pools_of_sift(rows, x, given)
        expected = {}
        for n in range(30):
            own = [int(p) for p in rows[n, :6] if p >= 0 and (not reciprocal or n in rows[p, :6])]
            order = [int(m) for m in np.argsort(-(x @ x[n])) if m != n][:10]
            expected[n] = sorted(own, key=lambda p: float(x[p] @ x[n])), [m for m in order if m not in rows[n]]
        assert pools.anchors.tolist() == [n for n in range(30) if all(expected[n])]
        for n, positives, negatives in zip(pools.anchors.tolist(), pools.positives, pools.negatives, strict=True):
            assert (positives.tolist(), negatives.tolist()) == expected[n]


def test_fidelity_is_added_to_the_loss():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(6, 4)), requires_grad=True)
    before = torch.tensor(rng.normal(size=(6, 4)))
    tuples = tuple(torch.tensor(t) for t in ([0, 1], [2, 3], [4, 5]))
    labels = torch.arange(6)
    plain = SiameseLoss()
    loss = FidelityLoss(plain, 0.3)(x, labels, tuples, None, before)
    strayed = np.mean([np.sum((a - b) ** 2) for a, b in zip(x.detach().numpy(), before.numpy(), strict=True)])
    assert loss.item() == pytest.approx(plain(x, labels, tuples).item() + 0.3 * strayed)
    loss.backward()
    assert x.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="as it was"):
        FidelityLoss(plain, 0.3)(x, labels, tuples)
