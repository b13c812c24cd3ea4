"""Boxes that cannot be, and crops that know where they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import QueryError
from resight.geometry.boxes import check_box, crop
from resight.images.image import Image

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (5, 5, 5.5, 9), (NAN, 0, 9, 9), (0, 0, INF, 9)]
)
def test_empty_boxes_are_named_and_explained(box):
    with pytest.raises(QueryError, match=r"a\.jpg: the box .* is empty; give x1,y1,x2,y2"):
        check_box(box, (100, 50), "a.jpg")


@pytest.mark.parametrize("box", [(-1, 0, 9, 9), (0, -0.1, 9, 9), (0, 0, 101, 9), (0, 0, 9, 51)])
def test_boxes_that_leave_the_image_say_its_size(box):
    with pytest.raises(QueryError, match=r"a\.jpg: .* leaves the image, which is 100×50"):
        check_box(box, (100, 50), "a.jpg")


def test_the_whole_image_is_a_box():
    assert check_box((0, 0, 100, 50), (100, 50), "a.jpg") == (0.0, 0.0, 100.0, 50.0)


def coordinates(width: int, height: int) -> np.ndarray:
    """Pixels that say where they are: red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, x * 0], axis=2).astype(np.uint8)


# In sixteenths, so that no rounding blurs which pixels a box touches.
EDGES = st.tuples(st.integers(0, 98 * 16), st.integers(16, 99 * 16)).map(
    lambda t: (t[0] / 16, min(100.0, (t[0] + t[1]) / 16))
)


@given(EDGES, EDGES)
def test_a_crop_holds_every_pixel_of_its_box_and_says_where_it_begins(xs, ys):
    box = xs[0], ys[0], xs[1], ys[1]
    part, (left, top) = crop(Image(coordinates(100, 100), (100, 100), "a"), box)
    height, width = part.pixels.shape[:2]
    np.testing.assert_array_equal(part.pixels[0, 0, :2], [left, top])
    assert part.size == (width, height)
    assert left <= box[0] < left + 1 and top <= box[1] < top + 1
    assert box[2] <= left + width < box[2] + 1 and box[3] <= top + height < box[3] + 1


def test_a_crop_of_a_reduced_image_is_placed_in_the_original():
    reduced = Image(coordinates(100, 50), (400, 200), "a")
    part, corner = crop(reduced, (120, 40, 240, 121))
    np.testing.assert_array_equal(part.pixels[0, 0, :2], [30, 10])
    assert corner == (120.0, 40.0) and part.size == (120, 84) and part.pixels.shape == (21, 30, 3)
