"""Clusters against scikit-learn and by brute force."""

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import DBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score

from resight.errors import RecipeError
from resight.learning.unlabelled.clusters import dbscan_labels, kmeans_labels, matched, usual_distance


def crowds(seed, noise=0.1, each=25, count=6, dimensions=16):
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.normal(size=(count, dimensions)), each, axis=0) + noise * rng.normal(
        size=(each * count, dimensions)
    )
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), np.repeat(np.arange(count), each)


def test_kmeans_finds_crowds_and_each_photo_has_its_nearest_centroid():
    x, truth = crowds(0)
    labels = kmeans_labels(x, 6, iterations=50, seed=2)
    assert labels.dtype == np.int64 and adjusted_rand_score(truth, labels) > 0.7
    np.testing.assert_array_equal(labels, kmeans_labels(x, 6, iterations=50, seed=2))
    means = np.stack([x[labels == n].mean(axis=0) for n in range(6)])
    nearest = ((x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == labels).all()  # it has converged
    theirs = [KMeans(6, init="random", n_init=1, random_state=n).fit(x).inertia_ for n in range(10)]
    assert min(theirs) - 1e-3 <= ((x - means[labels]) ** 2).sum() <= max(theirs)
    with pytest.raises(RecipeError, match=r"80 clusters of 150 photos .*unlabelled.clusters"):
        kmeans_labels(x, 80)


def test_numbers_are_kept_as_well_as_any_numbering_can():
    rng = np.random.default_rng(4)
    labels, before = rng.integers(-1, 5, 60), rng.integers(-1, 5, 60)
    best = max(
        np.sum((np.array([*p, -1])[labels] == before) & (before >= 0) & (labels >= 0)) for p in permutations(range(5))
    )
    now = matched(labels, before, 5)
    assert np.sum((now == before) & (now >= 0)) == best
    assert (now == -1).tolist() == (labels == -1).tolist()
    pairs = {(a, b) for a, b in zip(labels.tolist(), now.tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # the same clusters
    np.testing.assert_array_equal(matched(np.where(labels < 0, -1, (labels + 2) % 5), labels, 5), labels)


def test_many_clusters_keep_as_many_photos_as_a_dense_assignment():
    rng = np.random.default_rng(5)
    for moved in (0.3, 0.95):  # of the second some clusters have nothing in common with any
        before = np.arange(900) // 3
        labels = rng.permutation(300)[np.where(rng.random(900) < moved, rng.integers(0, 300, 900), before)]
        shared = np.zeros((300, 300))
        np.add.at(shared, (labels, before), 1)
        kept = matched(labels, before, 300)
        assert np.sum(kept == before) == shared[linear_sum_assignment(shared, maximize=True)].sum()
        assert len(set(zip(labels.tolist(), kept.tolist(), strict=True))) == len(set(labels.tolist()))
        assert len(set(kept.tolist())) == len(set(labels.tolist()))


@pytest.mark.parametrize(("distance", "least"), [(0.35, 3), (0.4, 5), (0.4, 2)])
def test_dbscan_is_scikit_learns(distance, least):
    x, _ = crowds(1, noise=0.3)
    labels = dbscan_labels(x, distance, least)
    theirs = DBSCAN(eps=distance, min_samples=least).fit(x)
    core = theirs.core_sample_indices_
    assert (labels == -1).tolist() == (theirs.labels_ == -1).tolist()
    assert 0 < np.sum(labels == -1) < len(x)
    assert adjusted_rand_score(labels[core], theirs.labels_[core]) == 1.0
    d = np.linalg.norm(x[:, None] - x[core], axis=2)
    border = np.setdiff1d(np.flatnonzero(labels >= 0), core)
    assert labels[border].tolist() == labels[core[d[border].argmin(axis=1)]].tolist()
    first = [np.flatnonzero(labels[core] == n)[0] for n in range(labels.max() + 1)]
    assert first == sorted(first)


def test_dbscan_does_not_depend_on_blocks_and_says_where_it_finds_nothing(monkeypatch):
    x, _ = crowds(1, noise=0.12)
    whole = dbscan_labels(x, 0.4, 3)
    monkeypatch.setattr("resight.learning.unlabelled.clusters._BLOCK", 13)
    monkeypatch.setattr("resight.learning.unlabelled.clusters._PART", 17)
    np.testing.assert_array_equal(dbscan_labels(x, 0.4, 3), whole)
    monkeypatch.setattr("resight.learning.unlabelled.clusters._NEIGHBOURS", 20)
    with pytest.raises(RecipeError, match="smaller distance"):
        dbscan_labels(x, 1.5, 3)
    monkeypatch.undo()
    with pytest.raises(RecipeError, match="0 dense regions"):
        dbscan_labels(x, 0.01, 3)
    with pytest.raises(RecipeError, match="1 dense regions"):
        dbscan_labels(x, 1.99, 3)


def test_what_lies_between_two_regions_goes_to_the_nearer():
    first = [0.05, -0.01, -0.02, -0.03, -0.04, -0.045]  # of its core at 0.05 the photo between is in reach
    second = [0.25 - angle for angle in first]
    angles = np.array([*first, 0.135, *second])
    x = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    assert dbscan_labels(x, 0.1, 6).tolist() == [0] * 6 + [1] * 7
    assert dbscan_labels(x[::-1].copy(), 0.1, 6).tolist() == [0] * 7 + [1] * 6


def test_the_usual_distance_is_the_median_to_the_nearest_other():
    x, truth = crowds(3)
    d = np.linalg.norm(x[:, None].astype(np.float64) - x, axis=2)
    np.fill_diagonal(d, np.inf)
    assert usual_distance(x) == pytest.approx(np.median(d.min(axis=1)), abs=1e-4)
    labels = dbscan_labels(x, usual_distance(x), 3)
    assert np.mean(labels >= 0) > 0.4
    assert all(len(set(truth[labels == label].tolist())) == 1 for label in set(labels.tolist()) - {-1})
    assert 0 < usual_distance(np.repeat(x[:5], 2, axis=0)) <= 1e-3
