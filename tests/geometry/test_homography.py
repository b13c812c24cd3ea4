"""The projective map against OpenCV's, and its derivative against finite differences."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from resight.geometry.homography import corners, jacobians, project

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
