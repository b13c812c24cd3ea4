"""Patches show what their boxes and frames say, and the same thing whichever way the picture is turned."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from resight.errors import RecipeError
from resight.regions.patches import cut, keypoint_patches

DETECTORS = ("dog", "mser", "hessian-affine")


def boxes(*rows):
    return np.array(rows, np.float32)


@pytest.fixture(scope="module")
def picture(pictures):
    return pictures["astronaut"]


def test_a_box_of_the_patches_size_is_copied_and_others_are_resized(picture):
    patches = cut(picture, boxes((10, 20, 42, 52), (100, 40, 228, 104), (0, 0, 8, 8)), 32)
    assert patches.shape == (3, 32, 32, 3) and patches.dtype == np.uint8
    np.testing.assert_array_equal(patches[0], picture[20:52, 10:42])
    means = picture[40:104, 100:228].reshape(32, 2, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(patches[1] - means).max() <= 0.5  # areas, though the two sides shrink differently
    # Grown four times bilinearly: patch pixel u is at (u + ½)/4 - ½ of the region, held to its border.
    at = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    y, x = np.meshgrid(at, at, indexing="ij")
    for channel in range(3):
        grown = map_coordinates(picture[:8, :8, channel].astype(float), [y, x], order=1)
        assert np.abs(patches[2, :, :, channel] - grown).max() <= 1


def test_a_side_that_shrinks_is_averaged_though_the_other_grows():
    stripes = np.zeros((4, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (cut(stripes, boxes((0, 0, 64, 4)), 16) == 100).all()


def test_every_pixel_that_a_box_touches_is_cut(picture):
    inner = cut(picture, boxes((10.4, 20.9, 25.1, 35.01)), 16)
    np.testing.assert_array_equal(inner[0], picture[20:36, 10:26])
    assert cut(picture, np.empty((0, 4), np.float32), 16).shape == (0, 16, 16, 3)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_frame_says_where_each_patch_pixel_comes_from(picture, detector):
    side = 64
    patches, frames = keypoint_patches(picture, detector, side=side, top=60)
    assert patches.shape == (len(frames), side, side, 3) and patches.dtype == np.uint8
    assert frames.shape == (len(frames), 2, 3) and frames.dtype == np.float32 and 10 < len(frames) <= 60
    u, v = np.meshgrid(np.arange(side), np.arange(side))
    compared = 0
    for patch, frame in zip(patches, frames, strict=True):
        assert np.linalg.det(frame[:, :2]) > 0  # never mirrored
        if np.linalg.norm(frame[:, :2], 2) > 1.4:
            continue  # shrunk: smoothed as well
        x, y = np.tensordot(frame, np.stack([u, v, np.ones_like(u)]), axes=1)
        for channel in range(3):
            expected = map_coordinates(picture[:, :, channel].astype(float), [y, x], order=1, mode="nearest")
            assert np.abs(patch[:, :, channel] - expected).mean() < 1
        compared += 1
    assert compared >= 3


def test_dog_frames_are_sifts_keypoints(picture):
    _, frames = keypoint_patches(picture, "dog", side=32, top=40, scale=6)
    found = cv2.SIFT.create().detect(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), None)
    found = sorted(found, key=lambda k: (-k.response, k.pt[1], k.pt[0], k.angle))[:40]
    centre = frames @ np.array([15.5, 15.5, 1])
    np.testing.assert_allclose(centre, [k.pt for k in found], atol=1e-3)
    for frame, keypoint in zip(frames, found, strict=True):
        right = frame[:, :2] @ (32, 0)  # 12σ, which is 6 diameters, along the keypoint's direction
        angle = np.deg2rad(keypoint.angle)
        expected = 6 * keypoint.size * np.array([np.cos(angle), np.sin(angle)])
        np.testing.assert_allclose(right, expected, atol=1e-3 * keypoint.size)


def test_an_mser_is_the_ellipse_that_was_drawn():
    image = np.full((150, 200, 3), 60, np.uint8)
    cv2.ellipse(image, (90, 70), (40, 18), 30, 0, 360, (200, 200, 200), -1)
    _, frames = keypoint_patches(image, "mser", side=20, top=10, scale=1)
    assert len(frames) == 1
    shape = frames[0, :, :2] * 10  # half a patch is one radius
    turn = np.array([[np.cos(np.pi / 6), -np.sin(np.pi / 6)], [np.sin(np.pi / 6), np.cos(np.pi / 6)]])
    expected = turn @ np.diag([40.5**2, 18.5**2]) @ turn.T  # half a pixel of pen
    np.testing.assert_allclose(shape @ shape.T, expected, rtol=0.01)
    np.testing.assert_allclose(frames[0] @ (9.5, 9.5, 1), (90, 70), atol=0.5)


def view(picture, linear):
    """The picture under a linear map about its middle, in a frame that holds it all, and the 2×3 map."""
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ linear.T
    size = np.ceil(np.ptp(corners, axis=0)).astype(int)
    affine = np.column_stack([linear, -corners.min(axis=0)])
    return cv2.warpAffine(picture, affine, size.tolist(), flags=cv2.INTER_CUBIC, borderValue=(90,) * 3), affine


def correlation(a, b):
    return np.corrcoef(a.astype(float).ravel(), b.astype(float).ravel())[0, 1]


TURN = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])


@pytest.mark.parametrize(
    ("detector", "linear"),
    [(detector, 1.3 * TURN) for detector in DETECTORS]
    + [(detector, TURN @ np.diag([1.5, 0.9])) for detector in ("mser", "hessian-affine")],
)
def test_patches_of_one_thing_in_two_views_look_alike(picture, detector, linear):
    other, affine = view(picture, linear)
    first, first_frames = keypoint_patches(picture, detector, side=32, top=40)
    second, second_frames = keypoint_patches(other, detector, side=32, top=80)
    centre = np.array([15.5, 15.5, 1])
    there = second_frames @ centre
    alike = []
    for patch, frame in zip(first, first_frames, strict=True):
        moved = affine[:, :2] @ (frame @ centre) + affine[:, 2]
        area = np.linalg.det(affine[:, :2] @ frame[:, :2])
        ratio = np.linalg.det(second_frames[:, :, :2]) / area
        same = (np.linalg.norm(there - moved, axis=1) < 1.5) & (np.abs(np.log(ratio)) < 0.4)
        if same.any():
            alike.append(max(correlation(patch, candidate) for candidate in second[same]))
    assert len(alike) >= 0.3 * len(first)
    assert np.median(alike) > 0.8


@pytest.mark.parametrize("detector", DETECTORS)
def test_patches_are_the_same_twice_and_the_top_is_a_beginning(picture, detector):
    patches, frames = keypoint_patches(picture, detector, side=24, top=20)
    again = keypoint_patches(picture, detector, side=24, top=5)
    np.testing.assert_array_equal(again[0], patches[:5])
    np.testing.assert_array_equal(again[1], frames[:5])


def test_a_patch_that_shrinks_is_smoothed_first():
    checks = np.indices((300, 300)).sum(axis=0) % 2 * 255
    disc = np.clip(1 - np.abs(np.hypot(*(np.indices((300, 300)) - 150)) - 60) / 8, 0, 1)
    image = (checks // 4 + 160 - 130 * disc).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    patches, frames = keypoint_patches(image, "mser", side=16, top=1, scale=2)
    assert np.linalg.norm(frames[0, :, :2], 2) > 10
    assert patches[0, :2].std() < 6  # the checks have 32


@pytest.mark.parametrize("size", [(40, 50), (1, 1), (1, 40)])
@pytest.mark.parametrize("detector", DETECTORS)
def test_nothing_to_see_is_no_patch(detector, size):
    patches, frames = keypoint_patches(np.full((*size, 3), 9, np.uint8), detector, side=16, top=5)
    assert patches.shape == (0, 16, 16, 3) and frames.shape == (0, 2, 3)


def test_what_cannot_be_is_named(picture):
    with pytest.raises(RecipeError, match="detector must be one of dog, mser, hessian-affine, not 'surf'"):
        keypoint_patches(picture, "surf", side=16, top=5)
    with pytest.raises(RecipeError, match="side must be at least 1 pixel, not 0"):
        cut(picture, boxes((0, 0, 5, 5)), 0)
    for wrong in ({"top": 0}, {"top": 5, "scale": 0.0}):
        with pytest.raises(RecipeError, match="top must be at least 1 and scale positive"):
            keypoint_patches(picture, side=16, **wrong)
    with pytest.raises(ValueError, match="H×W×3 uint8"):
        cut(picture[:, :, 0], boxes((0, 0, 5, 5)), 8)
