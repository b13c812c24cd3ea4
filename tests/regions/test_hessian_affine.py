"""Gaussian blobs, whose detected scale and shape have a closed form: the square root of their covariance."""

import numpy as np
import pytest

from resight.regions.hessian_affine import hessian_affine


def covariance(long, short, angle):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([long**2, short**2]) @ turn.T


def draw(blobs, width=128, height=110):
    """blobs: (centre, covariance, contrast); on a background of 40."""
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width), 40.0)
    for centre, spread, contrast in blobs:
        away = np.stack([x, y], axis=-1) - centre
        image += contrast * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", away, np.linalg.inv(spread), away))
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("contrast", [150, -30])
@pytest.mark.parametrize(("long", "short", "angle"), [(3, 3, 0), (6, 6, 0), (9, 4, 0.5), (8, 3, 1.2), (12, 6, -0.9)])
def test_a_blobs_position_and_covariance_are_found(long, short, angle, contrast):
    centre, spread = (60.3, 50.7), covariance(long, short, angle)
    xy, shapes, responses = hessian_affine(draw([(centre, spread, contrast)]), 5)
    np.testing.assert_allclose(xy[0], centre, atol=0.1)
    np.testing.assert_allclose(shapes[0], shapes[0].T, atol=1e-9)
    error = np.linalg.norm(shapes[0] @ shapes[0].T - spread) / np.linalg.norm(spread)
    assert error < 0.06
    # With variances a² and b², contrast c and blur t, t²·det H at the centre is (c a b t)² / ((a² + t)(b² + t))²,
    # which is largest at t = ab, where it is (c ab / (a + b)²)².
    expected = (contrast / 255 * long * short / (long + short) ** 2) ** 2
    assert responses[0] == pytest.approx(expected, rel=0.12)


def test_the_strongest_come_first_and_ties_by_position():
    round_ = covariance(4, 4, 0)
    image = draw([((90, 30), round_, 100), ((30, 30), round_, 100), ((30, 80), round_, 100), ((90, 80), round_, 140)])
    xy, shapes, responses = hessian_affine(image, 10)
    assert xy.round().tolist()[:4] == [[90, 80], [30, 30], [90, 30], [30, 80]]
    assert shapes.shape == (len(xy), 2, 2) and (np.diff(responses) <= 0).all()
    for whole, first in zip((xy, shapes, responses), hessian_affine(image, 2), strict=True):
        np.testing.assert_array_equal(whole[:2], first)


@pytest.mark.parametrize("size", [(60, 50), (1, 1), (2, 30)])
def test_a_flat_image_has_no_blobs(size):
    xy, shapes, responses = hessian_affine(np.full(size, 90, np.uint8), 5)
    assert xy.shape == (0, 2) and shapes.shape == (0, 2, 2) and responses.shape == (0,)
