"""Verification against maps that are known, pictures that are unrelated, and pictures in a mirror."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from resight.geometry.homography import corners, project
from resight.images.image import Image
from resight.local.features import LocalFeatures
from resight.local.matching import WordTable, match_by_words
from resight.local.rootsift import UNIT, rootsift
from resight.local.verification import consistent, verify


def describe(pixels: np.ndarray) -> LocalFeatures:
    image = Image(np.ascontiguousarray(pixels), pixels.shape[1::-1], "-")
    return rootsift(image, max_features=300, contrast_threshold=0.01, edge_threshold=10.0)


def matched(one: LocalFeatures, two: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Mutual nearest neighbours: one word for all descriptors compares every pair."""
    table = WordTable.build(one.descriptors.astype(np.float32), np.zeros((len(one), 1), np.int64))
    i, j, _ = match_by_words(table, two.descriptors, np.zeros(len(two), np.int64), 0.48 * UNIT)
    return i, j


def check(one: LocalFeatures, two: LocalFeatures, seed: int = 0):
    i, j = matched(one, two)
    return i, j, verify(one, two, i, j, max_error=3.2, seed=seed)


@pytest.mark.parametrize(("name", "seed"), [("astronaut", 0), ("coffee", 1), ("rocket", 2)])
def test_a_known_homography_is_recovered(pictures, view, name, seed):
    other, truth = view(pictures[name], seed)
    i, _, found = check(describe(pictures[name]), describe(other))
    height, width = pictures[name].shape[:2]
    box = corners((0, 0, width - 1, height - 1))
    assert np.abs(project(found.homography, box) - project(truth, box)).max() < 2
    assert len(found.inliers) > 0.5 * len(i) and (np.diff(found.inliers) > 0).all()


@pytest.mark.parametrize("turn", [30, 90, 180])
def test_turned_and_halved_pictures_are_verified(pictures, turn):
    picture = pictures["astronaut"]
    height, width = picture.shape[:2]
    affine = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 0.5)
    _, _, found = check(describe(picture), describe(cv2.warpAffine(picture, affine, (width, height))))
    box = corners((40, 40, width - 40, height - 40))
    expected = np.column_stack([box, np.ones(4)]) @ affine.T
    assert np.abs(project(found.homography, box) - expected).max() < 2 and len(found.inliers) > 15


def test_the_seed_decides_and_nothing_else(pictures, view):
    one, two = describe(pictures["chelsea"]), describe(view(pictures["chelsea"], 5)[0])
    first, second = check(one, two, seed=7)[2], check(one, two, seed=7)[2]
    np.testing.assert_array_equal(first.homography, second.homography)
    np.testing.assert_array_equal(first.inliers, second.inliers)


def test_unrelated_pictures_share_next_to_nothing(pictures):
    for one, two in (("astronaut", "coffee"), ("rocket", "chelsea"), ("coffee", "hubble_deep_field")):
        assert len(check(describe(pictures[one]), describe(pictures[two]))[2].inliers) < 7


def noise(n: int, seed: int) -> LocalFeatures:
    rng = np.random.default_rng(seed)
    columns = {name: rng.uniform(*bounds, n).astype(np.float32) for name, bounds in COLUMNS.items()}
    xy = rng.uniform(0, 300, (n, 2)).astype(np.float32)
    return LocalFeatures(xy, **columns, descriptors=np.zeros((n, 8), np.uint8))


COLUMNS = {"size": (2, 20), "angle": (0, 2 * np.pi), "score": (0, 1)}


def test_correspondences_at_random_hardly_agree():
    i = np.arange(200)
    counts = [len(verify(noise(200, s), noise(200, s + 100), i, i, max_error=3.2, seed=0).inliers) for s in range(5)]
    assert max(counts) < 12


def test_true_correspondences_are_found_among_many_false_ones(pictures, view):
    one = describe(pictures["astronaut"])
    two = describe(view(pictures["astronaut"], 4)[0])
    i, j, clean = check(one, two)
    rng = np.random.default_rng(0)
    false = rng.integers(0, len(one), 2 * len(i)), rng.integers(0, len(two), 2 * len(i))
    found = verify(one, two, np.append(i, false[0]), np.append(j, false[1]), max_error=3.2, seed=0)
    true = found.inliers[found.inliers < len(i)]
    assert len(true) > 0.9 * len(clean.inliers) and len(found.inliers) - len(true) < 0.1 * len(true)


def test_a_mirrored_picture_is_not_the_same_thing(pictures):
    """With the very same correspondences: every point in place, but every patch turned over."""
    picture = pictures["astronaut"]
    one, width = describe(picture), picture.shape[1]
    flipped = one.xy * np.float32([-1, 1]) + np.float32([width - 1, 0])
    mirrored = replace(one, xy=flipped, angle=(np.pi - one.angle) % np.float32(2 * np.pi))
    i = np.arange(len(one))
    assert len(verify(one, mirrored, i, i, max_error=3.2, seed=0).inliers) == 0
    for name in ("chelsea", "coffee", "rocket"):  # the astronaut's flag has stars, which are their own mirror images
        assert len(check(describe(pictures[name]), describe(pictures[name][:, ::-1]))[2].inliers) < 7


def test_patches_of_another_scale_are_no_inliers(pictures):
    """Points in place whose keypoints say another scale or direction than the map are chance."""
    one = describe(pictures["astronaut"])
    i = np.arange(len(one))
    for changed in (replace(one, size=one.size * 4), replace(one, angle=one.angle + np.float32(np.pi / 2))):
        assert len(verify(one, changed, i, i, max_error=3.2, seed=0).inliers) == 0
    assert len(verify(one, one, i, i, max_error=3.2, seed=0).inliers) > 0.95 * len(one)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_correspondences_prove_nothing(n):
    found = verify(noise(5, 0), noise(5, 0), np.arange(n), np.arange(n), max_error=3.0, seed=0)
    assert found.homography is None and len(found.inliers) == 0


def test_points_on_one_spot_prove_nothing():
    still = replace(noise(10, 0), xy=np.full((10, 2), 5, np.float32))
    assert len(verify(still, still, np.arange(10), np.arange(10), max_error=3.0, seed=0).inliers) == 0


def test_consistency_keeps_the_majority_across_the_turn_of_the_circle():
    one, two = noise(9, 0), noise(9, 0)
    turn = np.full(9, 2 * np.pi - 0.1)
    turn[6:] = np.pi  # three of nine say otherwise
    angle = ((one.angle + turn + np.linspace(-0.15, 0.15, 9)) % (2 * np.pi)).astype(np.float32)
    two = replace(two, angle=angle, size=one.size * 2)
    i = np.arange(9)
    np.testing.assert_array_equal(consistent(one, two, i, i), [True] * 6 + [False] * 3)
    assert consistent(one, two, i[:0], i[:0]).shape == (0,)
