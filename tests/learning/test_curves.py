"""Curves: what is drawn is where the values are."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.learning.curves import curves, ticks

VALUES = st.just(0.0) | st.floats(1e-12, 1e6) | st.floats(-1e6, -1e-12)


@given(VALUES, VALUES)
def test_ticks_are_round_and_reach_over_the_values(a, b):
    low, high = min(a, b), max(a, b)
    found = ticks(low, high)
    span = high - low if high - low > 1e-9 * max(abs(a), abs(b)) else abs(high) or 1.0
    assert 2 <= len(found) <= 8
    assert found[0] <= low + 1e-6 * span and found[-1] >= high - 1e-6 * span
    steps = [y - x for x, y in pairwise(found)]
    assert max(steps) - min(steps) <= 1e-6 * span and min(steps) > 0


def points_of(svg):
    line = ET.fromstring(svg).find("{http://www.w3.org/2000/svg}polyline").get("points")
    return [tuple(map(float, pair.split(","))) for pair in line.split()]


def test_points_are_where_their_values_are():
    drawn = points_of(curves({"loss": [(0, 2.0), (50, 1.0), (100, 0.0)]}, across="step", up="loss"))
    (x0, y0), (x1, y1), (x2, y2) = drawn
    assert x1 - x0 == pytest.approx(x2 - x1) and y1 - y0 == pytest.approx(y2 - y1) and y0 < y2 and x0 < x2


def test_many_points_are_thinned_to_their_means_and_holes_left_out():
    points = [(float(x), float(x)) for x in range(6400)]
    drawn = points_of(curves({"loss": points}, across="step", up="loss"))
    assert len(drawn) == 640
    holes = [(0.0, 1.0), (1.0, float("nan")), (2.0, 3.0)]
    assert len(points_of(curves({"a": holes}, across="step", up="a"))) == 2
    with pytest.raises(ValueError, match="a point"):
        curves({"a": [(0.0, float("inf"))]}, across="step", up="a")


def test_names_are_escaped():
    svg = curves({'<b>&"\x07': [(0, 1)]}, across="step", up='a"<')
    ET.fromstring(svg)
    assert not re.search(r"<b>|\x07", svg)
