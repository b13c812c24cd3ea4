"""Power-law normalisation, by hand and by its properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resight.projection.power import power


def test_worked_by_hand():
    np.testing.assert_allclose(power([[9, -16], [0, 0]]), [[0.6, -0.8], [0, 0]])
    np.testing.assert_allclose(power([27, 64, 0], 1 / 3), [0.6, 0.8, 0])
    np.testing.assert_allclose(power([3, -4], 1), [0.6, -0.8])


# Entries so small that a float64 loses their digits have no length to speak of.
ENTRIES = st.floats(-1e3, 1e3).map(lambda entry: entry if abs(entry) > 1e-100 else 0.0)


@given(arrays(float, 5, elements=ENTRIES), st.floats(0.1, 1), st.floats(0.01, 100))
def test_signs_stay_and_length_does_not_matter(x, alpha, scale):
    out = power(x, alpha)
    assert (np.sign(out) == np.sign(x)).all()
    np.testing.assert_allclose(power(scale * x, alpha), out, atol=1e-9)
    assert not x.any() or np.linalg.norm(out) == pytest.approx(1)


@pytest.mark.parametrize("alpha", [0, -1, 1.5, float("nan")])
def test_other_exponents_are_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be"):
        power([1.0], alpha)
