"""Fusion: against weighted cosines, scipy's ranks and loops written from the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from resight.features.fusion import append_orthogonal, concatenate, count_pairs, fuse

RNG = np.random.default_rng(0)


def test_joined_vectors_have_the_weighted_mean_of_the_cosines():
    a, b = RNG.normal(size=(2, 5)), RNG.normal(size=(2, 9))
    joined = concatenate([a, 7 * b], [1.0, 3.0])
    cosine = [x[0] @ x[1] / np.linalg.norm(x[0]) / np.linalg.norm(x[1]) for x in (a, b)]
    assert joined.shape == (2, 14)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1)
    assert joined[0] @ joined[1] == pytest.approx((cosine[0] + 3 * cosine[1]) / 4)


def test_scores_are_the_weighted_mean():
    s = RNG.uniform(-1, 1, (30, 3))
    np.testing.assert_allclose(fuse(s, [1, 2, 5], "scores"), np.average(s, axis=1, weights=[1, 2, 5]))


def test_ranks_are_reciprocal_with_ties_sharing_the_best():
    s = RNG.integers(0, 8, (40, 3)).astype(float)
    ranks = np.stack([rankdata(-column, method="min") for column in s.T], axis=1)
    expected = [sum(w / (60 + r) for w, r in zip((1, 2, 0.5), row, strict=True)) for row in ranks]
    np.testing.assert_allclose(fuse(s, [1, 2, 0.5], "ranks"), np.array(expected) * 61 / 3.5)


def test_the_first_of_every_branch_has_rank_score_one():
    s = np.array([[0.9, 0.8], [0.1, 0.2]])
    assert fuse(s, [1, 4], "ranks")[0] == pytest.approx(1)


def test_an_index_matrix_counts_places_among_the_nearest_hundred():
    s = RNG.random((250, 2))
    places = np.stack([rankdata(-column, method="min") for column in s.T], axis=1)
    expected = np.zeros(250)
    for image in range(250):
        for branch, weight in enumerate([1, 3]):
            if places[image, branch] <= 100:
                expected[image] += weight * (101 - places[image, branch]) / 400
    np.testing.assert_allclose(fuse(s, [1, 3], "index-matrix"), expected)


def test_exponential_refines_the_first_branch():
    s = RNG.uniform(-1, 1, (20, 3))
    expected = [max(0, x) * math.exp(2 * (y - 1)) * math.exp(0.5 * (z - 1)) for x, y, z in s]
    np.testing.assert_allclose(fuse(s, [1, 2, 0.5], "exponential"), expected)


@given(st.sampled_from(["scores", "ranks", "exponential", "index-matrix"]), st.integers(0, 10**6))
def test_an_image_more_similar_in_every_branch_is_never_behind(method, seed):
    s = np.random.default_rng(seed).uniform(0, 1, (12, 3))
    s[3] = s[7] + 0.01
    fused = fuse(s, [1, 2, 0.3], method)
    assert fused[3] >= fused[7]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one weight above 0 for each of the 2"):
        concatenate([np.ones(3), np.ones(3)], [1.0])
    for weights in ([1.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match="N×B with B weights above 0"):
            fuse(np.ones((4, 2)), weights, "scores")


def test_what_is_appended_is_orthogonal_to_the_first_vector():
    a, b = RNG.normal(size=(2, 6, 5))
    joined = append_orthogonal(a, b, weight=4.0)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1)
    first, rest = joined[:, :5], joined[:, 5:]
    np.testing.assert_allclose((first * rest).sum(axis=1), 0, atol=1e-12)
    for row in range(6):  # with numpy's Gram-Schmidt
        q, _ = np.linalg.qr(np.stack([a[row], b[row]], axis=1))
        sine = abs(q[:, 1] @ b[row]) / np.linalg.norm(b[row])
        assert np.linalg.norm(rest[row]) / np.linalg.norm(first[row]) == pytest.approx(2 * sine)
    with pytest.raises(ValueError, match="one shape"):
        append_orthogonal(a, b[:, :3])


def test_pairs_of_words_are_counted_region_by_region():
    rows, columns = RNG.random((7, 3)), RNG.random((7, 4))
    counts = np.zeros((3, 4))
    for region in range(7):
        for v in range(3):
            for w in range(4):
                counts[v, w] += rows[region, v] * columns[region, w]
    expected = np.sqrt(counts).ravel()
    np.testing.assert_allclose(count_pairs(rows, columns), expected / np.linalg.norm(expected))
