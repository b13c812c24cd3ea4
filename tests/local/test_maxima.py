"""Maxima against D2-Net's published definition in plain torch, planted peaks, and torch's interpolation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from resight.local.maps import Cells, FeatureMap
from resight.local.maxima import Maxima, between, peaks, stretched

torch = pytest.importorskip("torch")


def bumps(shape, centres, width=1.5):
    """A map with a Gaussian in a channel of its own at each (row, column)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    gaps = [(rows - r) ** 2 + (columns - c) ** 2 for r, c in centres]
    return np.exp(-np.stack(gaps) / (2 * width**2)).astype(np.float32)


def seen(values, scale=1.0):
    height, width = values.shape[1:]
    picture = width * 8, height * 8
    return FeatureMap(values, Cells(8, 0.0), picture, (round(picture[0] / scale), round(picture[1] / scale)))


def test_planted_peaks_are_found_between_cells():
    centres = [(4.3, 5.2), (9.8, 14.1), (12.0, 3.0)]
    features = Maxima().detect([seen(bumps((16, 20), centres))])
    assert len(features) == 3
    for row, column in centres:
        gap = np.abs(features.xy - np.array([8 * column, 8 * row])).max(axis=1).min()
        assert gap < 8 * 0.08  # a paraboloid through a Gaussian's samples
    assert np.allclose(features.size, 8) and np.allclose(np.linalg.norm(features.descriptors, axis=1), 1)
    assert np.all(np.diff(features.score) <= 0)


def test_a_ridge_is_no_feature():
    rows = np.mgrid[:16, :16][0]
    columns = np.mgrid[:16, :16][1]
    ridge = np.exp(-((rows - 8) ** 2) / 2 - (columns - 8) ** 2 / 200)[None].astype(np.float32)
    assert len(Maxima().detect([seen(ridge)])) == 0
    assert len(Maxima(edge=1000.0).detect([seen(ridge)])) == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_peaks_are_those_of_the_published_definition(seed, channels, height, width):
    """Depth-wise maximum, maximum of the 3×3 window, and Hessian by finite differences, for each cell and channel."""
    values = np.maximum(np.random.default_rng(seed).standard_normal((channels, height, width)), 0).astype(np.float32)
    padded = np.pad(values.astype(float), ((0, 0), (1, 1), (1, 1)))
    channel, step, found = peaks(values, 5.0)
    for r, c in np.ndindex(height, width):
        k = int(values[:, r, c].argmax())
        d = padded[k, r : r + 3, c : c + 3]
        hessian = np.array(
            [
                [d[0, 1] - 2 * d[1, 1] + d[2, 1], (d[0, 0] + d[2, 2] - d[0, 2] - d[2, 0]) / 4],
                [(d[0, 0] + d[2, 2] - d[0, 2] - d[2, 0]) / 4, d[1, 0] - 2 * d[1, 1] + d[1, 2]],
            ]
        )
        low, high = np.sort(np.abs(np.linalg.eigvalsh(hessian)))
        if abs(np.linalg.det(hessian)) < 1e-9 or abs(high - 5 * low) < 1e-9:
            continue  # on the border of the definition
        wanted = d[1, 1] >= d.max() and np.linalg.det(hessian) > 0 and high <= 5 * low
        assert channel[r, c] == k and found[r, c] == wanted
        if wanted:
            gradient = np.array([d[2, 1] - d[0, 1], d[1, 2] - d[1, 0]]) / 2
            np.testing.assert_allclose(step[r, c], -np.linalg.solve(hessian, gradient), rtol=1e-6, atol=1e-9)


@given(st.integers(0, 2**32 - 1), *(st.integers(1, 7) for _ in range(4)))
@settings(deadline=None, max_examples=40)
def test_stretching_is_torchs(seed, height, width, taller, wider):
    values = np.random.default_rng(seed).standard_normal((3, height, width)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None], (taller, wider), mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(stretched(values, taller, wider), expected[0].numpy(), atol=1e-5)


def test_interpolation_is_scipys():
    rng = np.random.default_rng(0)
    values, points = rng.standard_normal((4, 6, 7)).astype(np.float32), rng.random((30, 2)) * (5, 6)
    points[:2] = (5, 6), (0, 3)
    expected = np.stack([map_coordinates(v.astype(float), points.T, order=1) for v in values], axis=1)
    np.testing.assert_allclose(between(values, points), expected, atol=1e-5)


def test_a_larger_scale_leaves_alone_what_a_smaller_has_found():
    low, high = bumps((8, 8), [(2, 2), (40, 40)]), bumps((16, 16), [(4.2, 4.2), (12, 12)])
    alone = Maxima().detect([seen(high, 2.0)])
    assert len(alone) == 2
    both = Maxima().detect([seen(low, 1.0), seen(high, 2.0)])
    # The first is found at the small scale; its second score counts half, and has nothing of the small map added.
    assert sorted(both.size.tolist()) == [4.0, 8.0]
    np.testing.assert_allclose(both.score[both.size == 4], alone.score.max() / 2, rtol=1e-3)
    np.testing.assert_allclose(both.xy[both.size == 8][0], [16, 16], atol=0.5)


def test_negative_and_empty_maps_have_no_features():
    for values in (np.zeros((3, 5, 5), np.float32), -np.ones((3, 5, 5), np.float32), np.zeros((1, 1, 1), np.float32)):
        assert Maxima().detect([seen(values)]).descriptors.shape == (0, len(values))


def test_only_the_strongest_are_kept():
    values = bumps((16, 20), [(4, 5), (10, 14), (12, 3)]) * np.array([1, 3, 2], np.float32)[:, None, None]
    features = Maxima(top=2).detect([seen(values)])
    np.testing.assert_allclose(features.score, [3, 2])
    np.testing.assert_allclose(features.xy, [[112, 80], [24, 96]], atol=1)
