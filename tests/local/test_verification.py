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


def planted(model: str, outliers: float, seed: int, n: int = 300):
    """Two sets of features and matches of them, the first of which, n·(1 − outliers), are true; and the true map.

    By turns of the seed, false matches have scales and directions at random, or such as the true map gives them.
    """
    rng = np.random.default_rng(seed)
    area = corners((0, 0, 1000, 800))
    if model == "homography":
        truth = cv2.getPerspectiveTransform(np.float32(area), np.float32(area + rng.uniform(-100, 100, (4, 2))))
    else:
        turn, scale = rng.uniform(-np.pi, np.pi), 2 ** rng.uniform(-1, 1)
        linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        if model == "affine":
            linear = linear @ [[1, rng.uniform(-0.3, 0.3)], [0, 2 ** rng.uniform(-0.5, 0.5)]]
        truth = np.vstack([np.column_stack([linear, (300, 200)]), (0, 0, 1)])
    true = round(n * (1 - outliers))
    xy, size, angle = rng.uniform((0, 0), (1000, 800), (n, 2)), 2 ** rng.uniform(1, 5, n), rng.uniform(0, 2 * np.pi, n)
    # What the map does to a short arrow at each point, by differences.
    step = 1e-3 * np.column_stack([np.cos(angle), np.sin(angle)])
    across = step[:, ::-1] * (-1, 1)
    forward, side = (project(truth, xy + d) - project(truth, xy) for d in (step, across))
    stretch = np.sqrt(forward[:, 0] * side[:, 1] - forward[:, 1] * side[:, 0]) / 1e-3
    seen = project(truth, xy) + rng.normal(0, 1, (n, 2))
    low, high = project(truth, area).min(axis=0), project(truth, area).max(axis=0)
    seen[true:] = rng.uniform(low, high, (n - true, 2))
    seen_size = size * stretch * 2 ** rng.normal(0, 0.15, n)
    seen_angle = np.arctan2(forward[:, 1], forward[:, 0]) + rng.normal(0, 0.1, n)
    if seed % 2:
        seen_size[true:], seen_angle[true:] = 2 ** rng.uniform(1, 5, n - true), rng.uniform(0, 2 * np.pi, n - true)
    order = rng.permutation(n)
    one, two = (
        LocalFeatures(
            *(v.astype(np.float32) for v in (p, s, a % (2 * np.pi), np.ones(n))), descriptors=np.zeros((n, 8), np.uint8)
        )
        for p, s, a in ((xy, size, angle), (seen[order], seen_size[order], seen_angle[order]))
    )
    return one, two, np.argsort(order), true, truth


@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("outliers", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_planted_matches_are_told_from_false_ones(model, outliers, oriented):
    """Recall and precision of each seed, where false matches seldom lie within 8 of 1000 pixels by chance."""
    for seed in range(6):
        one, two, match, true, truth = planted(model, outliers, seed)
        shuffled = np.random.default_rng(seed).permutation(len(match))
        options = {"max_error": 8.0, "seed": 0, "model": model, "oriented": oriented}
        found = verify(one, two, shuffled, match[shuffled], **options)
        right = np.count_nonzero(shuffled[found.inliers] < true)
        assert right >= 0.95 * true and right >= 0.93 * len(found.inliers), seed
        middle = corners((250, 200, 750, 600))
        assert np.abs(project(found.homography, middle) - project(truth, middle)).max() < 8, seed


@pytest.mark.parametrize("model", ["similarity", "affine"])
def test_a_plainer_model_is_what_it_says(model):
    one, two, match, *_ = planted("affine", 0.5, 1)
    found = verify(one, two, np.arange(len(match)), match, max_error=30.0, seed=0, model=model).homography
    np.testing.assert_array_equal(found[2], [0, 0, 1])
    if model == "similarity":
        assert found[0, 0] == pytest.approx(found[1, 1]) and found[0, 1] == pytest.approx(-found[1, 0])


@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_equal_seeds_give_equal_results_for_every_model(model, oriented):
    one, two, match, *_ = planted(model, 0.9, 2)
    rows = np.arange(len(match))

    def run(unrelated):
        cv2.setRNGSeed(unrelated)
        return verify(one, two, rows, match, max_error=8.0, seed=3, model=model, oriented=oriented)

    first, second = run(1), run(2)
    np.testing.assert_array_equal(first.homography, second.homography)
    np.testing.assert_array_equal(first.inliers, second.inliers)
    assert (np.diff(first.inliers) > 0).all()


@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("model", ["similarity", "affine", "homography"])
def test_degenerate_matches_prove_nothing_and_break_nothing(model, oriented):
    rng = np.random.default_rng(0)
    any_, along = noise(40, 0), rng.uniform(0, 300, 40)
    line = replace(any_, xy=np.column_stack([along, 0.5 * along + 9]).astype(np.float32))
    spot = replace(any_, xy=np.full((40, 2), 7, np.float32))
    few = np.arange(3)
    options = {"max_error": 3.0, "seed": 0, "model": model, "oriented": oriented}
    for one, two, rows in ((spot, spot, np.arange(40)), (any_, any_, few), (any_, any_, few[:0])):
        found = verify(one, two, rows, rows, **options)
        assert found.homography is None and found.inliers.shape == (0,) and found.inliers.dtype == np.int64
    for one, two in ((any_, spot), (spot, any_)):  # whatever it makes of them, no match of many to one spot
        assert len(verify(one, two, np.arange(40), np.arange(40), **options).inliers) < 10
    found = verify(line, line, np.arange(40), np.arange(40), **options)
    if model == "similarity":
        np.testing.assert_allclose(found.homography, np.eye(3), atol=1e-5)
    assert found.homography is None or np.isfinite(found.homography).all()
    if model == "affine":
        assert found.homography is None


def test_features_without_scale_and_direction_need_none():
    """As ALIKED's: one size, no angle, in a picture turned by a right angle."""
    one, two, match, true, _ = planted("similarity", 0.5, 0)
    bare = [replace(f, size=np.full_like(f.size, 9), angle=np.zeros_like(f.angle)) for f in (one, two)]
    rows = np.arange(len(match))
    for model in ("similarity", "affine", "homography"):
        found = verify(*bare, rows, match, max_error=8.0, seed=0, model=model, oriented=False)
        assert np.count_nonzero(found.inliers < true) >= 0.95 * true
