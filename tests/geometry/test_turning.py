"""Turned pictures: where points go, and what the corners show."""

import numpy as np
import pytest

from resight.geometry.turning import turn


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_not_turned_is_the_same():
    pixels = picture(7, 11)
    np.testing.assert_array_equal(turn(pixels, 0), pixels)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarters_of_a_square_are_exact(quarters):
    pixels = picture(9, 9)
    np.testing.assert_array_equal(turn(pixels, 90 * quarters), np.rot90(pixels, quarters))


def test_a_point_goes_where_the_angle_says():
    pixels = np.zeros((101, 141, 3), np.uint8)
    pixels[48:53, 108:113] = 255  # 40 to the right of the centre
    found = turn(pixels, 10)[..., 0].astype(float)
    y, x = (np.average(axis, weights=found) for axis in np.indices(found.shape))
    assert (x, y) == pytest.approx((70 + 40 * np.cos(np.radians(10)), 50 - 40 * np.sin(np.radians(10))), abs=0.1)


def test_corners_are_not_black():
    turned = turn(np.full((30, 50, 3), 200, np.uint8), 10)
    assert turned.shape == (30, 50, 3) and (turned == 200).all()
