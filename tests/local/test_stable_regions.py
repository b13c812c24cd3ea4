"""Maximally stable regions by their definition, one region after another with scipy's connected components."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from shapes import disc

from resight.local.stable_regions import stable_regions


def masks(pictures, delta, clutter=None):
    """Of each picture, its regions as h×w bool."""
    found = stable_regions(pictures, delta, clutter)
    assert (np.diff(found.picture) >= 0).all()
    drawn = np.zeros((len(found.picture), *pictures.shape[1:]), int)
    np.add.at(drawn, (found.region, found.y, found.x), 1)
    assert drawn.max(initial=0) <= 1
    return [drawn[found.picture == place] > 0 for place in range(len(pictures))]


def connected(picture, level, pixel):
    numbers = label(picture.astype(int) >= level)[0]
    return numbers == numbers[pixel]


def _detector(size):
    mser = cv2.MSER.create(1, max(2, int(0.001 * size)), int(0.75 * size), 1.0, 0.0)
    mser.setPass2Only(True)
    return mser


def by_definition(picture, delta):
    """From what OpenCV lists, the most stable first, each against all that were kept."""
    size = picture.size
    candidates = []
    for listed in _detector(size).detectRegions(picture)[0]:
        pixel, level = (listed[0][1], listed[0][0]), int(picture[listed[:, 1], listed[:, 0]].min())
        region, below = connected(picture, level, pixel), connected(picture, level - delta, pixel)
        if region.sum() <= 0.75 * size and below.sum() / region.sum() - 1 <= 0.5:
            candidates.append((below.sum() / region.sum() - 1, -region.sum(), region))
    kept = []
    for _, _, region in sorted(candidates, key=lambda candidate: candidate[:2]):
        areas = [sorted((int(region.sum()), int(other.sum()))) for other in kept]
        apart = [not (region & other).any() for other in kept]
        if all(a or large - small >= 0.7 * large for a, (small, large) in zip(apart, areas, strict=True)):
            kept.append(region)
    return kept


def blobs(rng, noise):
    picture = np.zeros((24, 30))
    for _ in range(4):
        centre, radii = rng.uniform(4, 20, 2), rng.uniform(2, 8, 2)
        picture = np.maximum(picture, rng.uniform(10, 250) * disc((24, 30), centre, radii, rng.uniform(0, 3)))
    return (picture + rng.uniform(0, noise, picture.shape)).astype(np.uint8)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 12]), st.sampled_from([0, 4, 8]))
@settings(deadline=None, max_examples=25)
def test_regions_of_several_pictures_are_those_of_the_definition(seed, delta, noise):
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.random((24, 30)), (0, 0), 2)
    smooth = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    pictures = np.stack([blobs(rng, noise), np.zeros((24, 30), np.uint8), smooth, blobs(rng, noise)])
    found = masks(pictures, delta)
    wanted = [by_definition(picture, delta) for picture in pictures]
    assert wanted[2] and not wanted[1]
    for ours, theirs in zip(found, wanted, strict=True):
        assert len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
    most = len(wanted[2]) - 1
    assert [len(each) for each in masks(pictures, delta, most)] == [len(w) if len(w) <= most else 0 for w in wanted]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_regions_are_bright_stable_and_diverse(seed):
    picture, delta = blobs(np.random.default_rng(seed), 8), 12
    regions = masks(picture[np.newaxis], delta)[0]
    variations = []
    for inside in regions:
        level, pixel = int(picture[inside].min()), tuple(np.argwhere(inside)[0])
        assert np.array_equal(connected(picture, level, pixel), inside)  # extremal: all that is above its level
        variations.append(connected(picture, level - delta, pixel).sum() / inside.sum() - 1)
        assert inside.mean() <= 0.75
    assert variations == sorted(variations) and all(v <= 0.5 for v in variations)
    for a in range(len(regions)):
        for b in range(a):
            small, large = sorted((int(regions[a].sum()), int(regions[b].sum())))
            assert not (regions[a] & regions[b]).any() or large - small >= 0.7 * large


def test_the_most_stable_of_nested_regions_is_taken():
    picture = np.zeros((1, 40, 40), np.uint8)
    picture[0, disc((40, 40), (20, 20), (12, 12))] = 60
    picture[0, disc((40, 40), (20, 20), (10, 10))] = 70  # within Δ of the one around it, and much alike
    picture[0, disc((40, 40), (20, 20), (3, 3))] = 200  # within it, and much smaller
    assert sorted(int(region.sum()) for region in masks(picture, 12)[0]) == [
        disc((40, 40), (20, 20), (3, 3)).sum(),
        disc((40, 40), (20, 20), (12, 12)).sum(),
    ]


def test_the_whole_picture_is_no_region():
    """Of pixels that grow together at the lowest level OpenCV lists a part, which would be completed to all of it."""
    pictures = np.random.default_rng(0).integers(0, 3, (200, 8, 9)).astype(np.uint8)
    parts = [len(part) for picture in pictures for part in _detector(72).detectRegions(picture)[0]]
    assert parts and max(parts) <= 54
    assert not any((region.mean() > 0.75) for regions in masks(pictures, 1) for region in regions)


@pytest.mark.parametrize("shape", [(1, 2, 9), (3, 9, 2), (0, 9, 9), (2, 5, 5)])
def test_pictures_without_anything_have_no_regions(shape):
    found = stable_regions(np.zeros(shape, np.uint8), 3)
    assert len(found.picture) == len(found.region) == len(found.x) == len(found.y) == 0
