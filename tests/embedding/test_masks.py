"""Selective convolutional masks on maps worked by hand and against loops."""

import numpy as np
import pytest

from resight.embedding.masks import max_mask, select, sift_mask, sum_mask


def test_cells_with_a_keypoint():
    # A 40×30 image on 4×2 cells of 10×15 pixels; the border of the first two lies between the centres of pixels 9 and
    # 10. What lies beyond the image counts for the border cells.
    keypoints = np.array([[0, 0], [9.49, 14.49], [9.5, 14.49], [25, 15], [40, 30], [-3, 20]])
    expected = [[True, True, False, False], [True, False, True, True]]
    np.testing.assert_array_equal(sift_mask((2, 4), keypoints, (40, 30)), expected)
    assert not sift_mask((2, 4), np.empty((0, 2)), (40, 30)).any()


@pytest.mark.parametrize(
    ("keypoints", "size"), [(np.zeros((3, 3)), (4, 4)), (np.zeros(2), (4, 4)), (np.zeros((1, 2)), (0, 4))]
)
def test_bad_keypoints(keypoints, size):
    with pytest.raises(ValueError, match="N×2"):
        sift_mask((2, 2), keypoints, size)


def test_cells_whose_sum_reaches_the_median():
    x = np.array([[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [0, 0, 0]]], np.float32)
    np.testing.assert_array_equal(sum_mask(x), [[False, False, False], [True, True, True]])
    # With an odd number the median is a cell's own sum, and that cell is in.
    np.testing.assert_array_equal(sum_mask(x[:, :1]), [[False, True, True]])


def test_sum_mask_by_a_loop():
    x = np.random.default_rng(0).random((7, 5, 6))
    sums = [[sum(x[c, i, j] for c in range(7)) for j in range(6)] for i in range(5)]
    ordered = sorted(value for row in sums for value in row)
    median = (ordered[14] + ordered[15]) / 2
    np.testing.assert_array_equal(sum_mask(x), np.array(sums) >= median)


def test_cells_with_a_channels_maximum():
    x = np.zeros((4, 2, 3), np.float32)
    x[0, 1, 2] = 5
    x[1, 0, 1] = x[1, 1, 0] = 2  # the first of two
    x[2, 1, 2] = 1
    # Channel 3 is dead and marks none.
    np.testing.assert_array_equal(max_mask(x), [[False, True, False], [False, False, True]])


def test_max_mask_holds_every_maximum_and_no_more_cells_than_channels():
    x = np.random.default_rng(0).normal(size=(9, 6, 7))
    mask = max_mask(x)
    np.testing.assert_array_equal(select(x, mask).max(axis=0), x.max(axis=(1, 2)))
    assert mask.sum() == len({int(channel.argmax()) for channel in x}) <= 9


def test_selected_features_are_columns_in_reading_order():
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    out = select(x, np.array([[True, False, True], [False, True, False]]))
    np.testing.assert_array_equal(out, [[0, 6], [2, 8], [4, 10]])
    assert out.dtype == np.float32 and out.flags.c_contiguous
    assert select(x, np.zeros((2, 3), bool)).shape == (0, 2)


def test_what_does_not_fit_is_refused():
    x = np.zeros((2, 2, 3))
    with pytest.raises(ValueError, match="mask must be bool"):
        select(x, np.ones((3, 2), bool))
    with pytest.raises(ValueError, match="mask must be bool"):
        select(x, np.ones((2, 3), int))
    for mask in (sum_mask, max_mask):
        with pytest.raises(ValueError, match="C×H×W"):
            mask(x[0])
