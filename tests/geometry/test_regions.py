"""Regions against the papers' definitions, the code that others trained with, and what must hold of any of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from resight.errors import RecipeError
from resight.geometry.regions import dense_windows, nms, rigid_grid, round_outwards, spatial_pyramid

SIDES = st.integers(1, 300)
LEVELS = st.integers(1, 4)


def overlaps(boxes, along):
    """Shares of a side that neighbours along one axis have in common, for boxes of one level."""
    starts = np.unique(boxes[:, along])
    return 1 - np.diff(starts) / (boxes[0, 2] - boxes[0, 0])


def by_level(boxes, width, height, levels):
    """Splits a paper grid by the side that each level must have."""
    sides = [2 * min(width, height) / (level + 1) for level in range(1, levels + 1)]
    return [boxes[np.isclose(boxes[:, 2] - boxes[:, 0], side, rtol=1e-4)] for side in sides]


@pytest.mark.parametrize(
    ("width", "height", "counts"),
    [
        (32, 32, [1, 4, 9, 16]),  # m = 1: l² squares
        (48, 32, [2, 6, 12, 20]),  # 3:2, m = 2 overlaps by 50 %, m = 3 by 75 %
        (32, 48, [2, 6, 12, 20]),
        (64, 32, [3, 8, 15, 24]),  # 2:1, m = 2 by 0 %, m = 3 by 50 %
        (80, 50, [2, 6, 12, 20]),  # 8:5, m = 2 by exactly 40 %
        (90, 50, [2, 6, 12, 20]),  # 9:5, 20 % and 60 % are as near: the fewer
        (33, 32, [2, 6, 12, 20]),  # one square cannot cover it
    ],
)
def test_a_rigid_grid_has_the_papers_number_of_squares(width, height, counts):
    grid = rigid_grid(width, height, 4)
    assert [len(boxes) for boxes in by_level(grid, width, height, 4)] == counts
    assert len(grid) == sum(counts)


def test_a_rigid_grid_typed_by_hand():
    third = [(x, y) for y in (0, 4 / 3) for x in (0, 5 / 3, 10 / 3)]
    expected = [[0, 0, 4, 4], [2, 0, 6, 4], *([x, y, x + 8 / 3, y + 8 / 3] for x, y in third)]
    np.testing.assert_allclose(rigid_grid(6, 4, 2), expected, rtol=1e-6)


@given(SIDES, SIDES, LEVELS)
@settings(deadline=None)
def test_a_rigid_grid_is_inside_square_even_symmetric_and_covering(width, height, levels):
    grid = rigid_grid(width, height, levels)
    assert grid.dtype == np.float32
    assert (grid[:, :2] >= 0).all() and (grid[:, 2:] <= (width, height)).all()
    np.testing.assert_allclose(grid[:, 2] - grid[:, 0], grid[:, 3] - grid[:, 1], rtol=1e-4)
    mirrored = grid[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
    for boxes, others in ((mirrored, grid), (grid, mirrored)):
        assert KDTree(boxes).query(others)[0].max() < 2e-3
    turned = rigid_grid(height, width, levels)[:, [1, 0, 3, 2]]
    assert set(map(tuple, turned.tolist())) == set(map(tuple, grid.tolist()))
    for level, boxes in enumerate(by_level(grid, width, height, levels), 1):
        for axis, length in enumerate((width, height)):
            assert boxes[:, axis].min() == 0 and boxes[:, axis + 2].max() == length
            if level == 1 or max(width, height) <= 1.5 * min(width, height):
                assert (overlaps(boxes, axis) > -1e-4).all()
            gaps = np.diff(np.unique(boxes[:, axis]))
            assert len(gaps) == 0 or np.ptp(gaps) < 1e-3


@given(SIDES, SIDES)
@settings(deadline=None)
def test_no_other_number_of_largest_squares_overlaps_by_nearer_to_two_fifths(width, height):
    short, long = min(width, height), max(width, height)
    squares = len(rigid_grid(width, height, 1))

    def miss(count):
        return abs((short - (long - short) / (count - 1)) / short - 0.4)

    if long == short:
        assert squares == 1
    else:
        assert squares >= 2
        assert miss(squares) <= min(miss(count) for count in range(2, 3 * long // short + 4)) + 1e-12


def cirtorch(torch, width, height, levels):
    """The loops of cnnimageretrieval-pytorch's rmac(), told in boxes."""
    steps = torch.tensor([2.0, 3, 4, 5, 6, 7])
    w = min(width, height)
    shift = (max(width, height) - w) / (steps - 1)
    extra = torch.min(torch.abs((w**2 - w * shift) / w**2 - 0.4), 0)[1].item() + 1
    extras = [extra if width > height else 0, extra if height > width else 0]
    boxes = [[0, 0, width, height]]
    for level in range(1, levels + 1):
        side = math.floor(2 * w / (level + 1))
        if side == 0:
            continue
        starts = []
        for length, more in zip((width, height), extras, strict=True):
            half = math.floor(side / 2 - 1)
            b = 0 if level + more == 1 else (length - side) / (level + more - 1)
            starts.append((torch.floor(half + torch.tensor(range(level + more)).float() * b) - half).int().tolist())
        boxes += [[x, y, x + side, y + side] for y in starts[1] for x in starts[0]]
    return boxes


def test_the_cirtorch_variant_gives_the_regions_of_that_code():
    torch = pytest.importorskip("torch")
    for width in (*range(1, 42), 64, 99, 333):
        for height in (*range(1, 42, 3), 63, 200):
            boxes = rigid_grid(width, height, 3, variant="cirtorch")
            assert boxes.tolist() == cirtorch(torch, width, height, 3), (width, height)


def test_the_variants_agree_where_all_is_whole_and_differ_where_they_say():
    assert rigid_grid(48, 36, 3, whole=True).tolist() == rigid_grid(48, 36, 3, variant="cirtorch").tolist()
    assert len(rigid_grid(300, 10, 1)) == 49  # m = 49 squares overlap by 39.6 %
    assert len(rigid_grid(300, 10, 1, variant="cirtorch", whole=False)) == 7
    assert rigid_grid(7, 7, 2)[:, 2:].max() == 7
    assert rigid_grid(1, 1, 3, variant="cirtorch").tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]


@given(SIDES, SIDES, st.lists(st.integers(1, 6), min_size=1, max_size=3))
@settings(deadline=None)
def test_the_cells_of_a_pyramid_level_partition_the_image(width, height, cells):
    boxes = spatial_pyramid(width, height, cells)
    assert len(boxes) == sum(n * n for n in cells)
    x, y = np.linspace(0.123, width - 0.123, 13), np.linspace(0.123, height - 0.123, 13)
    start = 0
    for n in cells:
        level, start = boxes[start : start + n * n], start + n * n
        in_x = (level[:, :1] <= x) & (x < level[:, 2:3])
        in_y = (level[:, 1:2] <= y) & (y < level[:, 3:4])
        assert (np.einsum("rx,ry->xy", in_x.astype(int), in_y.astype(int)) == 1).all()
        np.testing.assert_allclose(level[:, 2:] - level[:, :2], [(width / n, height / n)] * n**2, rtol=1e-4)


def test_rounded_outwards_the_cells_of_a_pyramid_are_the_bins_of_adaptive_pooling():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=(7, 5))
    for n in (1, 2, 3, 4, 7):
        expected = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(values)[None, None], n).flatten()
        cells = round_outwards(spatial_pyramid(5, 7, (n,)), 5, 7)
        assert [values[y1:y2, x1:x2].max() for x1, y1, x2, y2 in cells] == expected.tolist()


def test_mop_cnn_has_1_25_and_49_windows():
    assert [len(dense_windows(256, 256, side, 32)) for side in (256, 128, 64)] == [1, 25, 49]


def test_windows_typed_by_hand():
    assert dense_windows(7, 4, 3, 2).tolist() == [
        [0, 0, 3, 3],
        [2, 0, 5, 3],
        [4, 0, 7, 3],
        [0, 1, 3, 4],
        [2, 1, 5, 4],
        [4, 1, 7, 4],
    ]
    assert dense_windows(7, 4, 9, 2).tolist() == [[0, 0, 7, 4]]
    assert dense_windows(7, 4, 5, 9).tolist() == [[0, 0, 5, 4], [2, 0, 7, 4]]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 70), st.integers(1, 70))
@settings(deadline=None)
def test_windows_step_by_the_stride_and_see_what_strides_within_a_side_can(width, height, side, stride):
    boxes = dense_windows(width, height, side, stride).astype(int)
    seen = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(side, width), min(side, height))
        assert (x1 % stride == 0 or x2 == width) and (y1 % stride == 0 or y2 == height)
        seen[y1:y2, x1:x2] = True
    assert seen[0, 0] and seen[-1, -1] and (stride > side or seen.all())
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert boxes.tolist() == sorted(boxes.tolist(), key=lambda box: (box[1], box[0]))


def test_rounding_outwards_keeps_every_cell_that_is_touched():
    boxes = np.array([[1.2, 2, 3.1, 4], [0, 0, 10, 5], [3, 3, 3, 3], [9.5, 4.5, 12, 9], [-2, -2, -1, -1]], np.float32)
    assert round_outwards(boxes, 10, 5).tolist() == [
        [1, 2, 4, 4],
        [0, 0, 10, 5],
        [3, 3, 4, 4],
        [9, 4, 10, 5],
        [0, 0, 1, 1],
    ]


def naive_nms(boxes, scores, threshold):
    order, kept = sorted(range(len(boxes)), key=lambda i: (-scores[i], i)), []
    for i in order:
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def some_boxes(seed, count=60):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (count, 2))], axis=1).astype(np.float32)
    return boxes, rng.integers(0, 12, count).astype(np.float32)  # few scores: many ties


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_nms_is_the_naive_greedy_loop(threshold):
    for seed in range(5):
        boxes, scores = some_boxes(seed)
        expected = naive_nms(boxes.astype(float).tolist(), scores.tolist(), threshold)
        assert nms(boxes, scores, threshold).tolist() == expected
        assert nms(boxes, scores, threshold, top=3).tolist() == expected[:3]


def test_nms_is_the_one_that_networks_use():
    torch = pytest.importorskip("torch")
    from resight.networks import torchvision_ops

    boxes, scores = some_boxes(9, 200)
    theirs = torchvision_ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4)
    assert nms(boxes, scores, 0.4).tolist() == theirs.tolist()


def test_nms_keeps_a_box_at_the_threshold_and_drops_one_above():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]], np.float32)  # a third of the union is shared
    scores = np.array([1, 2], np.float32)
    assert nms(boxes, scores, 0.34).tolist() == [1, 0]
    assert nms(boxes, scores, 0.33).tolist() == [1]
    halves = np.array([[0, 0, 2, 1], [0, 0, 1, 1]], np.float32)
    assert nms(halves, scores, 0.5).tolist() == [1, 0]
    assert nms(np.empty((0, 4), np.float32), np.empty(0, np.float32), 0.5).tolist() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rigid_grid(0, 4, 3), "width must be at least 1, not 0"),
        (lambda: rigid_grid(4, 4, 0), "levels must be at least 1"),
        (lambda: rigid_grid(4, 4, 3, variant="matlab"), "variant must be 'paper' or 'cirtorch', not 'matlab'"),
        (lambda: spatial_pyramid(4, 4, ()), "cells must name at least one level"),
        (lambda: spatial_pyramid(4, 4, (1, 0)), r"cells\[1\] must be at least 1"),
        (lambda: dense_windows(4, 4, 2, 0), "stride must be at least 1"),
    ],
)
def test_numbers_that_make_no_regions_are_named(call, message):
    with pytest.raises(RecipeError, match=message):
        call()


def test_nms_wants_a_score_a_box():
    with pytest.raises(ValueError, match=r"R×4"):
        nms(np.zeros((2, 4), np.float32), np.zeros(3, np.float32), 0.5)
