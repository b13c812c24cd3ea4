"""RootSIFT against the Hellinger kernel, and keypoints against pictures whose geometry is known."""

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from resight.images.image import Image
from resight.images.read import read_image
from resight.local.features import LocalFeatures
from resight.local.rootsift import UNIT, root, rootsift

SETTINGS = {"contrast_threshold": 0.01, "edge_threshold": 10.0}


def features(pixels, size=None, most=2000) -> LocalFeatures:
    height, width = pixels.shape[:2]
    return rootsift(Image(pixels, size or (width, height), "-"), max_features=most, **SETTINGS)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.95))
def test_inner_products_are_the_hellinger_kernel(seed, empty):
    rng = np.random.default_rng(seed)
    sift = (rng.integers(0, 256, (2, 128)) * (rng.random((2, 128)) > empty)).astype(np.float32)
    one, two = sift.astype(float) / np.maximum(sift.astype(float).sum(axis=1, keepdims=True), 1)
    if max(one.max(), two.max()) > (254.5 / UNIT) ** 2:
        return  # clipped, which the next test is about
    hellinger = np.sqrt(one * two).sum()  # (Arandjelović & Zisserman, Eq. 1)
    a, b = root(sift).astype(float) / UNIT
    # Each component is rounded by half a unit at most, and the vectors are no longer than 1.
    assert abs(a @ b - hellinger) < 2 * np.sqrt(128) * 0.5 / UNIT + 128 * (0.5 / UNIT) ** 2


def test_real_descriptors_stay_unit_vectors(pictures):
    length = np.linalg.norm(features(pictures["astronaut"]).descriptors / UNIT, axis=1)
    assert np.abs(length - 1).max() < 0.03


def test_rows_without_gradient_stay_zero_and_large_components_are_clipped():
    sift = np.zeros((2, 128), np.float32)
    sift[1, 7] = 40
    expected = np.zeros((2, 128), np.uint8)
    expected[1, 7] = 255
    np.testing.assert_array_equal(root(sift), expected)


def nearest(found: LocalFeatures, wanted: np.ndarray) -> np.ndarray:
    return cKDTree(found.xy).query(wanted)[0]


@pytest.mark.parametrize("reduction", [1, 2])
def test_keypoints_of_a_reduced_picture_are_in_the_originals_pixels(pictures, reduction):
    small = pictures["astronaut"]
    width, height = small.shape[1] * 2, small.shape[0] * 2
    large = np.asarray(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC))
    image = read_image(large, max_side=max(width, height) // reduction)
    assert image.pixels.shape[0] == height // reduction
    found = rootsift(image, max_features=3000, **SETTINGS)
    # The centre of a pixel u of the small picture lies at 2u + 0.5 of the one twice as large.
    strongest = features(small, most=200)
    error = nearest(found, 2 * strongest.xy + 0.5)
    assert np.median(error) < 0.75 and (error < 1.5).mean() > 0.8
    sized = found.size[cKDTree(found.xy).query(2 * strongest.xy + 0.5)[1]] / strongest.size
    assert abs(np.median(sized) - 2) < 0.2


def test_angles_turn_with_the_picture(pictures):
    picture = pictures["astronaut"]
    height = picture.shape[0]
    # A quarter turn clockwise, as seen: (x, y) goes to (height − 1 − y, x), and x's direction becomes y's.
    before, after = features(picture, most=300), features(np.ascontiguousarray(np.rot90(picture, -1)))
    expected = np.column_stack([height - 1 - before.xy[:, 1], before.xy[:, 0]])
    distance, place = cKDTree(after.xy).query(expected)
    same = (distance < 1) & (np.abs(np.log2(after.size[place] / before.size)) < 0.2)
    turn = (after.angle[place] - before.angle)[same] % (2 * np.pi)
    assert same.mean() > 0.8 and abs(np.median(turn) - np.pi / 2) < 0.05


def test_the_strongest_come_first_and_are_no_more_than_asked(pictures):
    all_of_them, few = features(pictures["astronaut"]), features(pictures["astronaut"], most=50)
    assert len(few) == 50 < len(all_of_them)
    assert (np.diff(few.score) <= 0).all() and few.score.min() >= np.sort(all_of_them.score)[-60]
    assert ((all_of_them.angle >= 0) & (all_of_them.angle < 2 * np.pi)).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (64, 64)])
def test_nothing_to_see_gives_no_features(shape):
    assert len(features(np.full((*shape, 3), 128, np.uint8))) == 0


def test_inconsistent_columns_are_refused():
    column = np.zeros(3, np.float32)
    good = {"xy": np.zeros((3, 2), np.float32), "size": column, "angle": column, "score": column}
    LocalFeatures(**good, descriptors=np.zeros((3, 8), np.uint8))
    for name in good:
        with pytest.raises(ValueError, match=name if name != "xy" else "xy must be"):
            LocalFeatures(**{**good, name: np.zeros((2, 3), np.float32)}, descriptors=np.zeros((3, 8), np.uint8))
    with pytest.raises(ValueError, match="2 descriptors for 3 keypoints"):
        LocalFeatures(**good, descriptors=np.zeros((2, 8), np.uint8))
