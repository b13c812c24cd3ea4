"""Centring, and that a layer takes it in without changing what comes out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.errors import RecipeError
from resight.hashing.centring import Centring, check_vectors
from resight.hashing.function import Layer


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("wanted", [None, 3.0])
def test_centred_vectors_have_mean_0_and_the_wanted_norm(wanted):
    x = 0.01 * draw(50, 7) + 5
    centred = Centring.of(x, wanted)(x)
    assert centred.dtype == np.float32
    np.testing.assert_allclose(centred.mean(axis=0), 0, atol=1e-3)
    assert np.mean([v @ v for v in centred]) == pytest.approx(7 if wanted is None else wanted, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(0.1, 10))
def test_a_layer_takes_it_in(seed, shift, scale):
    x = scale * draw(9, 4, seed) + shift
    layer = Layer(draw(3, 4, seed + 1), draw(3, 1, seed + 2)[:, 0], "relu")
    centring = Centring.of(x)
    np.testing.assert_allclose(centring.into(layer)(x), layer(centring(x)), atol=2e-4)


def test_vectors_that_do_not_do():
    with pytest.raises(RecipeError, match="9 vectors are all alike"):
        Centring.of(np.full((9, 3), 0.1, np.float32))
    with pytest.raises(ValueError, match="N×D and finite"):
        check_vectors([[1.0, np.nan], [0.0, 1.0]], 8)
    with pytest.raises(ValueError, match="N×D and finite"):
        check_vectors([1.0, 2.0], 8)
    for bits in (0, 12, -8):
        with pytest.raises(ValueError, match="multiple of 8"):
            check_vectors(draw(3, 2), bits)
    with pytest.raises(RecipeError, match="2 photos at least"):
        check_vectors(draw(1, 2), 8)
