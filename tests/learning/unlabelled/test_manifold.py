"""Pools against sets of dense matrices; and on planted manifolds positives stay on their own."""

import numpy as np
import pytest

from resight.errors import RecipeError
from resight.learning.unlabelled.manifold import by_affinity, mom
from resight.learning.unlabelled.stages import AffinityStage, MomStage


def ranked(values, but):
    return [n for n in np.lexsort((np.arange(len(values)), -values)).tolist() if n != but]


def dense_diffusion(x, graph, alpha):
    cosines = (x @ x.T).astype(np.float64)
    near = np.zeros(cosines.shape, bool)
    for i in range(len(x)):
        near[i, ranked(cosines[i], i)[:graph]] = True
    w = np.where(near & near.T, np.maximum(cosines, 0) ** 3, 0)
    degree = w.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return cosines, np.linalg.inv(np.eye(len(x)) - alpha * scale[:, None] * w * scale), degree


def test_mom_is_the_difference_of_sets(rings):
    x, _ = rings(arcs=4, each=15)
    stage = MomStage(kind="mom", graph=5, k=8, anchors=0, alpha=0.9)
    pools = mom(x, stage)
    cosines, f, degree = dense_diffusion(x, 5, 0.9)
    for anchor, positives, negatives in zip(pools.anchors.tolist(), pools.positives, pools.negatives, strict=True):
        manifold = [n for n in ranked(f[anchor], anchor) if f[anchor, n] > 1e-12][:8]
        space = ranked(cosines[anchor], anchor)[:8]
        assert positives.tolist() == [n for n in manifold if n not in space]
        assert negatives.tolist() == [n for n in space if n not in manifold]
    assert len(pools.anchors) >= 3
    assert (np.diff(degree[pools.anchors]) <= 1e-9).all()  # the most visited first
    few = mom(x, stage.model_copy(update={"anchors": 5}))
    assert set(few.anchors.tolist()) <= set(pools.anchors[:5].tolist())


def test_mom_stays_on_a_manifold_where_space_does_not(rings):
    x, arc = rings(arcs=8, each=60, dimensions=5, noise=0.01)
    pools = mom(x, MomStage(kind="mom", graph=8, k=50, anchors=0))
    same = np.concatenate([arc[p] == arc[a] for a, p in zip(pools.anchors, pools.positives, strict=True)])
    other = np.concatenate([arc[n] != arc[a] for a, n in zip(pools.anchors, pools.negatives, strict=True)])
    cosines = x @ x.T
    near = np.argsort(-cosines, axis=1)[:, 1:51]
    in_space = np.mean([arc[near[a]] == arc[a] for a in pools.anchors])
    assert in_space < 0.7 < 0.95 < same.mean() and other.mean() > 0.9
    for a, p, n in zip(pools.anchors, pools.positives, pools.negatives, strict=True):
        assert cosines[a, p].max() <= cosines[a, n].min()  # hard, both of them


@pytest.mark.parametrize("kind", ["diffusion", "rdp", "geodesic"])
def test_affinities_find_the_manifold(rings, kind):
    x, arc = rings(arcs=8, each=60, dimensions=5, noise=0.01)
    stage = AffinityStage(kind=kind, graph=8, positives=20, near=59, k=100, anchors=100, alpha=0.99)
    pools = by_affinity(x, stage, epoch=0, seed=1)
    same = np.concatenate([arc[p] == arc[a] for a, p in zip(pools.anchors, pools.positives, strict=True)])
    other = np.concatenate([arc[n] != arc[a] for a, n in zip(pools.anchors, pools.negatives, strict=True)])
    near = np.argsort(-(x @ x.T), axis=1)[:, 1:21]
    in_space = np.mean([arc[near[a]] == arc[a] for a in pools.anchors])
    assert same.mean() > 0.97 > in_space and other.mean() > 0.95
    assert len(pools.anchors) > 90


def test_diffusion_and_ways_against_dense_ones(rings):
    x, _ = rings(arcs=4, each=15)
    cosines, f, _ = dense_diffusion(x, 5, 0.9)
    stage = AffinityStage(kind="diffusion", graph=5, positives=3, near=6, k=12, anchors=0, alpha=0.9)
    pools = by_affinity(x, stage, epoch=0, seed=0)
    for anchor, positives, negatives in zip(pools.anchors.tolist(), pools.positives, pools.negatives, strict=True):
        near = [n for n in ranked(f[anchor], anchor) if f[anchor, n] > 1e-12][:6]
        assert positives.tolist() == near[:3]
        assert negatives.tolist() == [n for n in ranked(cosines[anchor], anchor)[:12] if n not in near]


@pytest.mark.parametrize(
    "mined",
    [
        lambda x: mom(x, MomStage(kind="mom", graph=6, k=20, anchors=0)),
        lambda x: by_affinity(x, AffinityStage(kind="rdp", graph=6, near=20, k=40, anchors=0), epoch=0, seed=0),
        lambda x: by_affinity(x, AffinityStage(kind="geodesic", graph=6, near=20, k=40, anchors=0), epoch=0, seed=0),
    ],
)
def test_the_order_of_photos_changes_nothing(rings, mined):
    x, _ = rings(arcs=5, each=30)
    order = np.random.default_rng(3).permutation(len(x))
    plain, moved = mined(x), mined(x[order])

    def sets(pools, name):
        rows = zip(name(pools.anchors).tolist(), pools.positives, pools.negatives, strict=True)
        return {a: (frozenset(name(p).tolist()), frozenset(name(n).tolist())) for a, p, n in rows}

    a, b = sets(plain, lambda p: p), sets(moved, lambda p: order[p])
    assert a.keys() == b.keys()
    differ = [key for key in a if a[key] != b[key]]  # rounding may swap two at the border of k
    assert len(differ) <= 0.02 * len(a)


def test_blocks_change_nothing(rings, monkeypatch):
    x, _ = rings(arcs=3, each=20)
    stage = AffinityStage(kind="rdp", graph=6, near=10, k=20, anchors=0)
    whole = by_affinity(x, stage, epoch=0, seed=0)
    monkeypatch.setattr("resight.learning.unlabelled.manifold._NUMBERS", 7 * len(x))
    parts = by_affinity(x, stage, epoch=0, seed=0)
    assert whole.anchors.tolist() == parts.anchors.tolist()
    assert [p.tolist() for p in whole.positives] == [p.tolist() for p in parts.positives]


def test_anchors_are_drawn_by_seed_and_epoch(rings):
    x, _ = rings()
    stage = AffinityStage(kind="geodesic", graph=6, near=10, k=40, anchors=30)

    def anchors(epoch, seed):
        return by_affinity(x, stage, epoch=epoch, seed=seed).anchors.tolist()

    assert anchors(0, 0) == anchors(0, 0) != anchors(1, 0) != anchors(1, 1)


def test_too_little_is_said():
    with pytest.raises(RecipeError, match="none has both"):
        mom(np.eye(6, dtype=np.float32) + np.float32(0.2), MomStage(kind="mom", graph=5, k=5))
    opposite = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    with pytest.raises(RecipeError, match="give more photos"):
        mom(opposite, MomStage(kind="mom", graph=1, k=2))


def test_numbers_of_neighbours_that_nobody_gave_fit_the_number_of_photos():
    whole, few = MomStage(kind="mom"), MomStage(kind="mom", graph=7, k=9)
    assert [(whole.neighbours(n), whole.compared(n)) for n in (4, 100, 900, 10_000)] == [
        (2, 1),
        (10, 5),
        (30, 15),
        (30, 50),
    ]
    assert (few.neighbours(4), few.compared(10_000)) == (7, 9)
    assert [AffinityStage(kind="rdp").reach(n) for n in (4, 100, 10_000)] == [(5, 8), (20, 40), (50, 100)]
    assert AffinityStage(kind="rdp", near=6, k=11).reach(4) == (6, 11)


@pytest.mark.parametrize("kind", ["diffusion", "rdp", "geodesic"])
def test_a_small_folder_needs_no_settings(rings, kind):
    x, arc = rings(arcs=5, each=6, dimensions=16, noise=0.01)
    pools = by_affinity(x, AffinityStage(kind=kind), epoch=0, seed=0)
    assert len(pools.anchors) == 30
    assert np.mean([arc[p[0]] == arc[a] for a, p in zip(pools.anchors, pools.positives, strict=True)]) > 0.9
    assert np.mean([np.mean(arc[n] != arc[a]) for a, n in zip(pools.anchors, pools.negatives, strict=True)]) > 0.9
