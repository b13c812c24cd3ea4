"""Scales combined: worked by hand, and the properties that the protocol demands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resight.features.multiscale import combine_scales, l2_normalise


def test_by_hand():
    scales = [[3.0, 4.0], [0.0, 2.0]]  # normalised: (0.6, 0.8), (0, 1)
    mean = np.array([0.3, 0.9])
    np.testing.assert_allclose(combine_scales(scales), mean / np.sqrt(0.09 + 0.81))
    cube = np.array([(0.216 / 2) ** (1 / 3), ((0.512 + 1) / 2) ** (1 / 3)])
    np.testing.assert_allclose(combine_scales(scales, "gem", 3.0), cube / np.sqrt((cube**2).sum()))


def test_batches_are_independent():
    vectors = np.random.default_rng(0).uniform(size=(3, 4, 6))
    for pooling in ("mean", "gem"):
        one_by_one = np.stack([combine_scales(vectors[:, b], pooling) for b in range(4)])
        np.testing.assert_allclose(combine_scales(vectors, pooling), one_by_one)


@given(arrays(np.float64, (3, 5), elements=st.floats(0.01, 1e3)), st.floats(0.01, 100))
def test_a_scales_length_and_place_do_not_matter(vectors, factor):
    expected = combine_scales(vectors, "gem", 2.5)
    np.testing.assert_allclose(combine_scales(vectors[::-1] * [[factor], [1], [1]], "gem", 2.5), expected)
    np.testing.assert_allclose(np.linalg.norm(expected), 1)


def test_one_scale_and_p_1_change_nothing():
    vectors = np.random.default_rng(1).uniform(size=(2, 7))
    np.testing.assert_allclose(combine_scales(vectors[:1], "gem"), vectors[0] / np.linalg.norm(vectors[0]))
    np.testing.assert_allclose(combine_scales(vectors, "gem", 1.0), combine_scales(vectors, "mean"))


def test_zero_vectors_stay_zero():
    np.testing.assert_array_equal(l2_normalise([[0.0, 0.0], [0.0, 2.0]]), [[0, 0], [0, 1]])


def test_bad_input():
    for bad in (np.zeros(3), np.zeros((0, 3))):
        with pytest.raises(ValueError, match="at least one scale"):
            combine_scales(bad)
    with pytest.raises(ValueError, match="negative"):
        combine_scales([[1.0, -1.0]], "gem")
    with pytest.raises(ValueError, match="p above 0"):
        combine_scales([[1.0, 1.0]], "gem", 0.0)
