"""Hypotheses and their refinement against geometry by hand, NumPy's least squares and scikit-image's."""

import numpy as np
import pytest
from skimage.transform import estimate_transform

from resight.geometry.homography import project
from resight.local.features import LocalFeatures
from resight.local.hypotheses import best, from_keypoints, from_pairs, points


def features(n: int, seed: int) -> LocalFeatures:
    rng = np.random.default_rng(seed)
    xy, size, angle = rng.uniform(0, 500, (n, 2)), rng.uniform(2, 40, n), rng.uniform(0, 2 * np.pi, n)
    columns = (v.astype(np.float32) for v in (xy, size, angle, np.ones(n)))
    return LocalFeatures(*columns, np.zeros((n, 8), np.uint8))


def mapped(maps, z):
    a, b, c = maps.T
    return a * z + b * np.conj(z) + c


def test_a_correspondence_takes_the_one_keypoint_to_the_other_with_its_size_and_direction():
    one, two, i = features(30, 0), features(30, 1), np.arange(30)
    maps = from_keypoints(one, two, i, i[::-1], seed=0)
    for length in (0, 1):
        source, target = (
            f.xy + length * f.size[:, None] * np.column_stack([np.cos(f.angle), np.sin(f.angle)]) for f in (one, two)
        )
        np.testing.assert_allclose(mapped(maps, points(source)), points(target)[::-1], atol=1e-3)
    assert not maps[:, 1].any()


def test_a_pair_takes_both_its_points_to_theirs():
    x, y = points(features(9, 0).xy), points(features(9, 1).xy)
    maps = from_pairs(x, y, seed=0)
    put = np.abs(maps[:, 0, None] * x + maps[:, 2, None] - y) < 1e-6
    assert len(maps) == 36 and (put.sum(axis=1) == 2).all() and len(np.unique(put, axis=0)) == 36


def test_many_are_drawn_by_the_seed_and_few_are_all_taken():
    one, two, i = features(3000, 0), features(3000, 1), np.arange(3000)
    drawn = [from_keypoints(one, two, i, i, seed=s) for s in (0, 0, 1)]
    pairs = [from_pairs(points(one.xy), points(two.xy), seed=s) for s in (0, 0, 1)]
    for made in (drawn, pairs):
        np.testing.assert_array_equal(made[0], made[1])
        assert not np.array_equal(made[0][:100], made[2][:100]) and 1000 < len(made[0]) <= 2048
    # A sample of more than half has no correspondence twice.
    assert len(np.unique(drawn[0], axis=0)) == 2048
    assert len(from_pairs(points(one.xy[:1]), points(two.xy[:1]), seed=0)) == 0


@pytest.mark.parametrize("far", [0.0, 20_000.0])
def test_refinement_ends_in_the_least_squares_fit_of_what_agrees(far):
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 500, (40, 2)) + far
    linear = {"similarity": np.array([[0.6, -0.8], [0.8, 0.6]]), "affine": np.array([[0.9, -0.5], [0.6, 0.7]])}
    for model, truth in linear.items():
        target = (xy - far) @ truth.T + (30, 40) + far + rng.normal(0, 0.5, (40, 2))
        target[30:] += rng.choice([-1, 1], (10, 2)) * rng.uniform(50, 100, (10, 2))
        x, y = points(xy), points(target)
        found = best(from_pairs(x, y, seed=0), x, y, max_error=4.0, model=model)
        if model == "affine":
            exact, *_ = np.linalg.lstsq(np.column_stack([xy[:30] - far, np.ones(30)]), target[:30], rcond=None)
            expected = np.column_stack([xy - far, np.ones(40)]) @ exact
        else:
            expected = estimate_transform("similarity", xy[:30] - far, target[:30])(xy - far)
        np.testing.assert_allclose(project(found, xy), expected, atol=1e-6 * max(1, far))


def test_too_little_support_gives_no_map():
    x = points(features(20, 0).xy)
    y = x * 1.5 + 3
    y[8:] = points(features(12, 1).xy)
    hypotheses = from_pairs(x, y, seed=0)
    assert best(hypotheses, x, y, max_error=1.0, model="similarity", least=9) is None
    assert best(hypotheses, x, y, max_error=1.0, model="similarity", least=8) is not None
    assert best(hypotheses[:0], x, y, max_error=1.0, model="similarity") is None


def test_points_on_a_line_determine_a_similarity_but_no_affinity():
    along = np.linspace(0, 300, 30)
    x = along + 0.2j * along
    for noise in (0.0, 0.1):  # a little off the line, the line's other direction is still noise
        shaken = x + noise * np.random.default_rng(0).normal(size=30) * 1j
        y = shaken * (1 + 1j) + 5
        hypotheses = from_pairs(shaken, y, seed=0)
        found = best(hypotheses, shaken, y, max_error=2.0, model="similarity")
        np.testing.assert_allclose(found, [[1, -1, 5], [1, 1, 0], [0, 0, 1]], atol=1e-6)
        assert best(hypotheses, shaken, y, max_error=2.0, model="affine") is None


def test_nothing_is_learned_from_points_on_one_spot():
    spot, spread = np.full(10, 3 + 4j), points(features(10, 0).xy)
    for x, y in ((spot, spread), (spread, spot), (spot, spot)):
        assert len(from_pairs(x, y, seed=0)) == 0
        hypotheses = np.tile(np.array([1, 0, 0], complex), (3, 1))
        for model in ("similarity", "affine"):
            assert best(hypotheses, x, y, max_error=1e4, model=model) is None


def test_a_mirror_image_is_no_affinity():
    x = points(features(30, 0).xy)
    y = np.conj(x) + 1000j
    assert best(from_pairs(x, y, seed=0), x, y, max_error=2.0, model="affine", least=15) is None
