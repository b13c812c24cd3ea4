"""Agreement of colours where a homography lays pictures over each other, on pictures with a known answer."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.images.image import Image
from resight.local.colours import agreement, is_grey, sampled, small_picture
from resight.local.features import Colours

SIDE = 64
SQUARE = np.array([[20.0, 20], [180, 20], [180, 180], [20, 180]], np.float32)


def blobs(seed=0, size=200):
    """Smooth blotches of many colours, as bright and as saturated as photographs are."""
    rng = np.random.default_rng(seed)
    small = rng.integers(70, 190, (7, 7, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC))


def colours(pixels, size=None):
    height, width = pixels.shape[:2]
    return small_picture(Image(pixels, size or (width, height), "made"), SIDE)


def hue_changed(pixels):
    return np.ascontiguousarray(pixels[:, :, ::-1])


def test_a_picture_agrees_with_itself():
    one = colours(blobs())
    assert agreement(one, one, np.eye(3), SQUARE) == pytest.approx(1, abs=1e-6)


def test_the_same_picture_seen_elsewhere_larger_and_turned():
    pixels = blobs()
    turn = np.deg2rad(20.0)
    a, b = 1.5 * np.cos(turn), 1.5 * np.sin(turn)
    homography = np.array([[a, -b, 160.0], [b, a, 20.0], [1e-4, -2e-4, 1.0]])
    seen = cv2.warpPerspective(pixels, homography, (500, 460), borderValue=(90, 90, 90))
    assert agreement(colours(pixels), colours(seen), homography, SQUARE) > 0.7
    away = homography.copy()
    away[0, 2] += 60
    assert agreement(colours(pixels), colours(seen), away, SQUARE) < 0.4


def test_other_light_is_forgiven_and_other_colours_are_not():
    pixels = blobs()
    lit = np.clip(pixels * np.array([0.8, 0.75, 0.65]) + 5, 0, 255).astype(np.uint8)
    same = agreement(colours(pixels), colours(lit), np.eye(3), SQUARE)
    # The same shading under other hues, as two flavours of one product have.
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    grey[..., 1:] = 255 - grey[..., 1:]
    other = agreement(colours(pixels), colours(cv2.cvtColor(grey, cv2.COLOR_LAB2RGB)), np.eye(3), SQUARE)
    assert same > 0.5 > 0.25 > other


def test_a_grey_print_agrees_with_the_colours_it_was_made_of():
    pixels = blobs()
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    sepia = np.clip(grey * np.array([1.0, 0.9, 0.7]), 0, 255).astype(np.uint8)
    assert is_grey(colours(grey)) and not is_grey(colours(pixels))
    assert agreement(colours(pixels), colours(grey), np.eye(3), SQUARE) > 0.9
    assert agreement(colours(grey), colours(sepia), np.eye(3), SQUARE) > 0.9


def test_shading_that_is_turned_round_does_not_agree():
    pixels = blobs()
    assert agreement(colours(pixels), colours(255 - pixels), np.eye(3), SQUARE) == 0


@pytest.mark.parametrize(
    ("homography", "why"),
    [
        (np.diag([0.02, 0.02, 1.0]), "it is seen too small"),
        (np.array([[1.0, 0, 500], [0, 1, 500], [0, 0, 1]]), "it lies outside the picture"),
        (np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 20, 0, 1]]), "a corner lies on the horizon"),
    ],
)
def test_what_cannot_be_compared_says_nothing(homography, why):
    assert agreement(colours(blobs()), colours(blobs(1)), homography, SQUARE) == 1, why


def test_points_on_a_line_enclose_nothing_to_compare():
    line = np.array([[20.0, 20], [60, 60], [180, 180]], np.float32)
    assert agreement(colours(blobs()), colours(blobs(1)), np.eye(3), line) == 1


def test_frames_place_parts_of_a_picture():
    pixels = blobs()
    part = np.ascontiguousarray(pixels[40:180, 60:190])
    shown = colours(part).moved(60, 40)
    assert shown.frame == (60, 40, 190, 180)
    inner = np.array([[70.0, 50], [180, 50], [180, 170], [70, 170]], np.float32)
    assert agreement(shown, colours(pixels), np.eye(3), inner) > 0.7
    assert agreement(colours(part), colours(pixels), np.eye(3), inner - [60, 40]) < 0.3


def test_pictures_at_a_reduced_size_are_placed_in_the_original():
    pixels = blobs()
    half = cv2.resize(pixels, (100, 100), interpolation=cv2.INTER_AREA)
    assert agreement(colours(half, size=(200, 200)), colours(pixels), np.eye(3), SQUARE) > 0.9


def test_samples_are_those_of_the_pixels_under_them():
    """A frame of 128×256 pixels shown in 64×64: pixel (u, v) covers 2×4 of the original's."""
    pixels = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    small = Colours(pixels, (10.0, 20.0, 10 + 2.0 * SIDE, 20 + 4.0 * SIDE))
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    places = [(5, 9), (20, 33), (63, 0)]
    # The original's keypoints count from the middle of its first pixel.
    xy = np.array([(10 + 2 * (u + 0.5) - 0.5, 20 + 4 * (v + 0.5) - 0.5) for u, v in places])
    np.testing.assert_allclose(sampled(small, xy), [lab[v, u] for u, v in places], atol=1e-3)
    between = sampled(small, xy[:1] + np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(between, [(lab[9, 5] + lab[9, 6]) / 2], atol=0.5)
    outside = np.array([[9.0, 25], [10 + 2 * SIDE + 1, 25], [np.nan, 25]])
    assert np.isnan(sampled(small, outside)).all()


@given(st.integers(0, 50), st.integers(51, 99))
def test_agreement_is_a_fraction(one, other):
    found = agreement(colours(blobs(one)), colours(blobs(other)), np.eye(3), SQUARE)
    assert 0 <= found <= 1
