"""Points of pairs whose geometry is a shift; maps read as OpenCV reads them; corners where they were drawn."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.learning.procedural.corners import (
    UNKNOWN,
    cell_targets,
    corner_response,
    shared_response,
    target_pixels,
)
from resight.learning.procedural.correspondences import Points, draw_points, near, read_map

H, W = 32, 48


def shifted(shifts):
    """warp and visible of pairs whose second view is the first one moved by (x, y)."""
    y, x = torch.meshgrid(torch.arange(H).float(), torch.arange(W).float(), indexing="ij")
    grid = torch.stack([x, y], dim=-1)
    warps = torch.stack([torch.stack([grid + torch.tensor(s), grid - torch.tensor(s)]) for s in shifts])
    inside = (warps >= 0) & (warps <= torch.tensor([W - 1.0, H - 1.0]))
    return warps, inside.all(dim=-1)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 2000))
def test_points_are_of_both_views_and_drawn_once(seed, each):
    shifts = [(3.0, -2.0), (-7.5, 4.25), (100.0, 0.0)]
    warp, visible = shifted(shifts)
    points = draw_points(warp, visible, torch.ones(visible.shape), each, torch.Generator().manual_seed(seed))
    moved = points.xy[:, 1] - points.xy[:, 0]
    torch.testing.assert_close(moved, torch.tensor(shifts)[points.pair])
    assert ((points.xy >= 0) & (points.xy <= torch.tensor([W - 1.0, H - 1.0]))).all()
    counts = torch.bincount(points.pair, minlength=3).tolist()
    assert counts == [min(each, int(visible[0, 0].sum())), min(each, int(visible[1, 0].sum())), 0]
    assert len({(int(p), *xy) for p, xy in zip(points.pair, points.xy[:, 0].tolist(), strict=True)}) == len(points.pair)
    assert (points.pair.diff() >= 0).all()


def test_pixels_are_drawn_by_their_weights():
    warp, visible = shifted([(0.0, 0.0)])
    weight = torch.ones(visible.shape)
    weight[..., : W // 2] = 3
    drawn = [draw_points(warp, visible, weight, 8, torch.Generator().manual_seed(n)) for n in range(400)]
    left = torch.cat([points.xy[:, 0, 0] < W / 2 for points in drawn]).float().mean()
    # 8 of 1536: hardly any is missed by those drawn before, so ¾ but for chance, three deviations of 0.008.
    assert float(left) == pytest.approx(0.75, abs=0.025)


def test_maps_are_read_as_opencv_reads_them():
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 5, H // 8, W // 8, generator=draw)
    xy = torch.rand(40, 2, 2, generator=draw) * torch.tensor([W - 1.0, H - 1.0])
    points = Points(xy, torch.sort(torch.randint(3, (40,), generator=draw)).values)
    found = read_map(maps, points, 1, (H, W))
    for n in range(40):
        at = ((xy[n, 1] + 0.5) / 8 - 0.5).numpy().reshape(1, 1, 2)
        picture = maps[points.pair[n]].permute(1, 2, 0).numpy()
        # OpenCV's own weights are of 5 bits.
        wanted = cv2.remap(picture, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0, 0]
        np.testing.assert_allclose(found[n].numpy(), wanted, atol=0.04)


def test_near_points_of_a_pair_in_either_view():
    xy = torch.tensor([[[0, 0], [0, 0]], [[3, 4], [50, 0]], [[40, 0], [0, 5.1]], [[0, 0], [0, 0]], [[1, 0], [9, 9]]])
    found = near(Points(xy.float(), torch.tensor([0, 0, 0, 1, 1])), 5.0)
    assert {tuple(place) for place in found.nonzero().tolist()} == {(0, 1), (1, 0), (3, 4), (4, 3)}


def test_the_corner_response_is_opencvs():
    picture = np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), 1.5)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    dx, dy = (cv2.filter2D(grey, -1, kernel) for kernel in (np.array([[-0.5, 0, 0.5]]), np.array([[-0.5], [0], [0.5]])))
    products = [cv2.GaussianBlur(x, (9, 9), 1.4) for x in (dx * dx, dx * dy, dy * dy)]
    wanted = np.linalg.eigvalsh(np.stack(products, axis=-1)[..., [0, 1, 1, 2]].reshape(40, 56, 2, 2))[..., 0]
    found = corner_response(torch.from_numpy(picture).permute(2, 0, 1)[None], 1.4)[0].numpy()
    np.testing.assert_allclose(found[6:-6, 6:-6], wanted[6:-6, 6:-6], rtol=1e-3, atol=1e-7)


def test_a_corner_of_one_view_only_is_no_keypoint():
    warp, visible = shifted([(5.0, 3.0)])
    images = torch.zeros(1, 2, 3, H, W)
    images[0, 0, :, 10:20, 12:30] = 1  # a rectangle that both views have
    images[0, 1, :, 13:23, 17:35] = 1
    images[0, 1, :, 26, 40] = 1  # a speck that only the second has
    response = corner_response(images[0], 1.2)[None]
    shared = shared_response(response, warp, visible)
    pixels = target_pixels(cell_targets(shared[0], response[0], visible[0], 0.05))
    first, second = ({tuple(place) for place in view.nonzero().tolist()} for view in pixels)
    assert len(first) == 4 and second == {(row + 3, column + 5) for row, column in first}
    corners = [(10, 12), (10, 29), (19, 12), (19, 29)]
    assert all(min(np.hypot(r - y, c - x) for y, x in corners) <= 1.5 for r, c in first)
    alone = target_pixels(cell_targets(response[0], response[0], visible[0], 0.05))[1]
    assert alone[24:29, 38:43].any()


def test_targets_are_those_of_a_loop_over_cells_and_windows():
    draw = np.random.default_rng(1)
    values = (draw.random((2, 24, 32)) ** 9).astype(np.float32)
    own = np.maximum(values, (draw.random((2, 24, 32)) ** 40).astype(np.float32))
    seen = draw.random((2, 24, 32)) < 0.97
    values = np.where(seen, values, 0)
    found = cell_targets(*map(torch.from_numpy, (values, own, seen)), 0.2).numpy()
    for picture in range(2):
        shared, floor = values[picture], 0.2 * values[picture].max()
        for row, column in np.ndindex(3, 4):
            best, wanted = 0.0, None
            unknown = False
            for y in range(8 * row, 8 * row + 8):
                for x in range(8 * column, 8 * column + 8):
                    window = shared[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5]
                    if max(floor, window.max(), best + 1e-12) <= shared[y, x]:
                        best, wanted = shared[y, x], 8 * (y % 8) + x % 8
                    unknown |= not seen[picture, y, x] and own[picture, y, x] >= floor
            assert found[picture, row, column] == (wanted if wanted is not None else UNKNOWN if unknown else 64)
    assert {UNKNOWN, 64} < set(found.ravel().tolist())


def test_targets_are_the_greatest_peak_of_their_cell_if_that_is_known():
    shared, everywhere = torch.zeros(1, 16, 16), torch.ones(1, 16, 16, dtype=torch.bool)
    shared[0, 3, 5], shared[0, 6, 7], shared[0, 9, 9] = 0.5, 0.4, 0.001
    targets = cell_targets(shared, shared, everywhere, 0.02)
    assert targets.tolist() == [[[3 * 8 + 5, 64], [64, 64]]]
    assert target_pixels(targets).nonzero().tolist() == [[0, 3, 5]]
    own, hidden = shared.clone(), everywhere.clone()
    own[0, 10, 10] = own[0, 12, 3] = own[0, 1, 1] = 0.3
    own[0, 3, 12] = 0.005  # too little
    hidden[0, 10, 10] = hidden[0, 1, 1] = hidden[0, 3, 12] = False
    targets = cell_targets(shared, own, hidden, 0.02)
    assert targets.tolist() == [[[3 * 8 + 5, 64], [64, UNKNOWN]]]
    assert target_pixels(targets).nonzero().tolist() == [[0, 3, 5]]
    nothing = torch.zeros(2, 16, 16)
    assert (cell_targets(nothing, nothing, everywhere.expand(2, -1, -1), 0.02) == 64).all()
