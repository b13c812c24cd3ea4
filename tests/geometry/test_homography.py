"""The projective map against OpenCV's, and its derivative against finite differences."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.geometry.homography import corners, inside, jacobians, overlap, project

SMALL = st.floats(-0.3, 0.3)


@st.composite
def homographies(draw):
    """Maps that keep the square [0, 300]² away from their horizon."""
    linear = np.eye(2) + np.array([[draw(SMALL), draw(SMALL)], [draw(SMALL), draw(SMALL)]])
    shift = draw(st.floats(-200, 200)), draw(st.floats(-200, 200))
    tilt = draw(st.floats(-1e-3, 1e-3)), draw(st.floats(-1e-3, 1e-3))
    return np.array([[*linear[0], shift[0]], [*linear[1], shift[1]], [*tilt, 1.0]])


POINTS = np.random.default_rng(0).uniform(0, 300, (20, 2))


@given(homographies())
def test_project_agrees_with_opencv(homography):
    expected = cv2.perspectiveTransform(POINTS[:, None], homography)[:, 0]
    np.testing.assert_allclose(project(homography, POINTS), expected, rtol=1e-9, atol=1e-9)


@given(homographies())
def test_jacobians_are_the_derivative(homography):
    step = 1e-4
    expected = np.stack(
        [(project(homography, POINTS + d) - project(homography, POINTS - d)) / (2 * step) for d in step * np.eye(2)],
        axis=2,
    )
    np.testing.assert_allclose(jacobians(homography, POINTS), expected, atol=1e-5)


def test_points_on_the_horizon_are_not_finite():
    assert not np.isfinite(project(np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]]), np.array([[0.0, 5.0]]))).all()


def test_corners_go_clockwise_from_the_top_left():
    np.testing.assert_array_equal(corners((1, 2, 30, 40)), [[1, 2], [30, 2], [30, 40], [1, 40]])


def test_inside_agrees_with_opencv_for_any_polygon():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (300, 2)).astype(np.float32)
    for corners_ in (3, 4, 7):
        polygon = rng.uniform(0, 100, (corners_, 2)).astype(np.float32)
        expected = [cv2.pointPolygonTest(polygon, tuple(map(float, p)), False) > 0 for p in points]
        np.testing.assert_array_equal(inside(polygon, points), expected)
    assert inside(polygon, points[:0]).shape == (0,)


def test_overlap_of_rectangles_by_hand():
    one = np.float32([[0, 0], [10, 0], [10, 10], [0, 10]])
    assert overlap(one, one + np.float32([5, 0])) == pytest.approx(0.5)
    assert overlap(one, one + 20) == 0 and overlap(one, one * 0.5 + 2) == pytest.approx(1)
    diamond = np.float32([[5, 0], [10, 5], [5, 10], [0, 5]])  # half of the square, and within it
    assert overlap(one, diamond[::-1]) == pytest.approx(1) == overlap(diamond, one)
    assert overlap(one, np.zeros((4, 2), np.float32)) == 0
