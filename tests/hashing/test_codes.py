"""Packing, against bits by hand, and Hamming distance, against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.hashing.codes import hamming, pack, unpack


def signs(n, bits, seed=0):
    return np.random.default_rng(seed).random((n, bits)) > 0.5


def test_the_first_bit_is_the_lowest():
    np.testing.assert_array_equal(pack([[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]]), [[1, 130]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(1, 6), st.integers(0, 99))
def test_unpacking_gives_what_was_packed(n, width, seed):
    given_signs = signs(n, 8 * width, seed)
    np.testing.assert_array_equal(unpack(pack(given_signs)), given_signs)


def test_hamming_counts_the_bits_that_differ():
    a, b = signs(5, 24, 1), signs(7, 24, 2)
    found = hamming(pack(a), pack(b))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, [[sum(p != q for p, q in zip(x, y, strict=True)) for y in b] for x in a])


def test_a_distance_can_be_above_what_a_byte_holds():
    assert hamming(np.zeros((1, 128), np.uint8), np.full((1, 128), 255, np.uint8)) == [[1024]]


def test_what_is_refused():
    for shape in ((3, 7), (8,), (2, 2, 8)):
        with pytest.raises(ValueError, match="multiple of 8"):
            pack(np.ones(shape, bool))
    with pytest.raises(ValueError, match="8 bits cannot be compared with others of 16"):
        hamming(np.zeros((2, 1), np.uint8), np.zeros((3, 2), np.uint8))
