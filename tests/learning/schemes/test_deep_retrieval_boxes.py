"""Boxes from matches: of objects planted in rendered pictures; the geometric median against a general optimiser."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from resight.learning.datasets.photos import Photo
from resight.learning.schemes.deep_retrieval_boxes import boxes_from_matches, geometric_median


def iou(a, b):
    wide, high = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return wide * high / (sum(areas) - wide * high)


@pytest.fixture(scope="module")
def planted(pictures, save, tmp_path_factory):
    """Three photos of each of two objects at places known, over other backgrounds; and one that shows no object."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(4)
    photos, truth = [], {}
    grounds = ["brick", "grass", "moon", "hubble_deep_field"]
    for label, name in enumerate(["coffee", "astronaut"]):
        for view in range(3):
            ground = cv2.resize(np.rot90(pictures[grounds[(view + label) % 4]], view + label), (400, 320))
            wide = int(rng.integers(150, 210))
            thing = cv2.resize(pictures[name], (wide, wide), interpolation=cv2.INTER_AREA)
            left, top = int(rng.integers(0, 400 - wide)), int(rng.integers(0, 320 - wide))
            scene = ground.copy()
            scene[top : top + wide, left : left + wide] = thing
            truth[len(photos)] = (left, top, left + wide, top + wide)
            photos.append(Photo(save(folder / f"{name}-{view}.png", scene), label))
    lone = cv2.resize(pictures["rocket"], (400, 320))
    photos.append(Photo(save(folder / "lone.png", lone), 0))
    return photos, truth


def test_planted_objects_are_boxed_and_what_matches_nothing_is_not(planted):
    photos, truth = planted
    found = boxes_from_matches(photos)
    assert set(found) == set(truth)
    overlaps = {place: iou(found[place].box, truth[place]) for place in truth}
    assert min(overlaps.values()) >= 0.6, overlaps
    assert all(box.size == (400, 320) and box.partners == 2 for box in found.values())
    np.testing.assert_allclose(found[0].fractions, np.array(found[0].box) / [400, 320, 400, 320], rtol=1e-6)


def test_reduced_pictures_give_boxes_in_the_photos_own_pixels(planted):
    photos, truth = planted
    found = boxes_from_matches(photos, max_side=300)
    assert all(found[place].size == (400, 320) and iou(found[place].box, truth[place]) >= 0.6 for place in found)
    assert len(found) >= 4


def test_a_photo_with_a_box_is_that_part_of_it(planted):
    photos, truth = planted
    x1, y1, x2, y2 = truth[0]
    part = (max(0, x1 - 20), max(0, y1 - 10), min(400, x2 + 30), min(320, y2 + 25))
    found = boxes_from_matches([Photo(photos[0].path, 0, part), photos[1], photos[2]])
    assert found[0].size == (part[2] - part[0], part[3] - part[1])
    assert iou(found[0].box, (x1 - part[0], y1 - part[1], x2 - part[0], y2 - part[1])) >= 0.6


def test_a_wrong_pair_does_not_decide():
    """Nine that agree and one that does not: the median stays, where the mean would not."""
    boxes = np.array([[10, 20, 110, 220]] * 9 + [[300, 300, 390, 390]], float)
    assert np.abs(geometric_median(boxes, np.ones(10)) - boxes[0]).max() < 1e-3
    assert np.abs(boxes.mean(axis=0) - boxes[0]).max() > 15


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 8))
def test_the_geometric_median_is_the_least_sum_of_distances(seed, count):
    rng = np.random.default_rng(seed)
    points, weights = rng.normal(size=(count, 4)), rng.uniform(0.5, 2, count)

    def total(x):
        return (weights * np.linalg.norm(points - x, axis=1)).sum()

    best = minimize(total, points.mean(axis=0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert total(geometric_median(points, weights)) <= min(best.fun, *map(total, points)) + 1e-4


def test_many_photos_are_compared_with_some(planted, monkeypatch):
    from resight.learning.schemes import deep_retrieval_boxes as module

    pairs = list(module._drawn(40, 6, np.random.default_rng(0)))
    counts = np.bincount(np.array(pairs).ravel(), minlength=40)
    assert len(pairs) == len(set(pairs)) and counts.max() <= 6 and counts.min() >= 3
    assert pairs == list(module._drawn(40, 6, np.random.default_rng(0)))
