"""How pairs match, on features made by hand; the network's keypoints; pictures rendered ahead."""

import os
import signal
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import torch

from resight.errors import RecipeError
from resight.learning.procedural.ahead import Ahead
from resight.learning.procedural.held_out import match_pairs, recall_at_1, strongest
from resight.learning.procedural.scenes import Rendering, Scenes, render
from resight.networks.compact import CompactMaps

H = W = 32


@pytest.fixture
def moved():
    """Pairs whose second view is the first moved by (4, 0); of the second pair nothing corresponds."""
    y, x = torch.meshgrid(torch.arange(H).float(), torch.arange(W).float(), indexing="ij")
    grid = torch.stack([x, y], dim=-1)
    warp = torch.stack([grid + torch.tensor([4.0, 0.0]), grid - torch.tensor([4.0, 0.0])]).expand(2, 2, H, W, 2)
    visible = torch.stack([x < W - 4, x >= 4]).expand(2, 2, H, W).clone()
    visible[1] = False
    return Scenes(torch.zeros(2, 2, 3, H, W), warp, visible, torch.arange(2))


def features(xy, codes):
    return np.array(xy, np.float32).reshape(-1, 2), np.eye(8, dtype=np.float32)[codes]


def test_matches_are_counted_as_they_are_defined(moved):
    a = features([(2, 3), (10, 10), (20, 20), (30, 5)], [0, 1, 2, 3])  # the last is not in the second view
    b = features([(6, 3), (14, 12), (25, 26), (2, 8)], [0, 1, 2, 3])  # right; 2 pixels off; 6 off; only here
    nothing = (np.empty((0, 2), np.float32), np.empty((0, 8), np.float32))
    of_first = match_pairs(Scenes(*(x[:1] for x in vars(moved).values())), [a, b])
    assert of_first.precision == pytest.approx(2 / 4)
    assert of_first.score == pytest.approx(2 / 3)
    assert of_first.repeatability == pytest.approx(2 / 3)
    both = match_pairs(moved, [a, b, a, b])  # a pair of which nothing can be right
    assert both.precision == pytest.approx(1 / 4) and both.score == pytest.approx(1 / 3)
    assert match_pairs(moved, [nothing, b, a, nothing]).precision == 0
    moved.visible[0, 0, 10, 10] = False  # what is hidden has no right match, however near
    assert match_pairs(moved, [a, b, a, b]).precision == pytest.approx(1 / 4 / 2)


def test_keypoints_between_pixels_are_carried_as_far(moved):
    a, b = features([(9.6, 10.4)], [0]), features([(13.6, 10.4)], [0])
    assert match_pairs(moved, [a, b, a, b], threshold=0.1).score == pytest.approx(1 / 2)


def test_one_that_is_nearest_to_two_matches_one(moved):
    a = features([(2, 3), (10, 10)], [0, 0])
    a[1][1] = (0.8, 0.6, 0, 0, 0, 0, 0, 0)
    found = match_pairs(moved, [a, features([(6, 3)], [0]), *[features([(1, 1)], [0])] * 2])
    assert found.precision == pytest.approx(1 / 2) and found.score == pytest.approx(1 / 1.5 / 2)


def test_the_strongest_keypoints_are_where_the_logits_are():
    keypoints = torch.zeros(1, 65, 4, 4)
    keypoints[:, 64] = 5
    keypoints[0, 3 * 8 + 5, 1, 2] = 20  # row 11, column 21
    keypoints[0, 6 * 8 + 0, 3, 0] = 18  # row 30, column 0
    reliability = torch.full((1, 1, 4, 4), 2.0)
    reliability[0, 0, 1, 2] = -2
    local = torch.nn.functional.normalize(torch.randn(1, 64, 4, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    xy, descriptors = strongest(CompactMaps(local, keypoints, reliability, torch.zeros(1)), 0, 2)
    assert xy.tolist() == [[0, 30], [21, 11]]
    # Column 21 is at (21 + ½)/8 − ½ = 2.1875 cells and row 11 at 0.9375.
    wanted = sum(
        wx * wy * local[0, :, y, x] for x, wx in ((2, 0.8125), (3, 0.1875)) for y, wy in ((0, 0.0625), (1, 0.9375))
    )
    np.testing.assert_allclose(descriptors[1], (wanted / wanted.norm()).numpy(), atol=1e-6)


def test_recall_is_that_of_the_other_view():
    x = np.eye(4, dtype=np.float32)[[0, 1, 2, 0, 3, 1]]  # the first subject's views are alike, the others' are not
    x = x + np.array([[0, 0, 0, 0.1]], np.float32) * np.arange(6)[:, None]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x @ x.T - 9 * np.eye(6)
    assert recall_at_1(x) == pytest.approx(np.mean([cosine[i].argmax() == (i + 3) % 6 for i in range(6)]))
    assert recall_at_1(np.concatenate([np.eye(5)] * 2)) == 1


@pytest.mark.parametrize("processes", [0, 1])
def test_pictures_rendered_ahead_are_those_of_render(processes):
    ahead = Ahead(
        3, 2, 4, 21, 32, settings=lambda first: Rendering(roll=first), processes=processes, device=torch.device("cpu")
    )  # subjects 0, 1, 4, 5, 8, 9 … of seed 3: the first of two trainers' shares
    try:
        for first in (0, 4, 8, 16, 4):  # and then as after going back
            found, wanted = ahead.take(first), render(3, first, 2, 32, settings=Rendering(roll=first))
            assert all(torch.equal(getattr(found, name), getattr(wanted, name)) for name in vars(wanted))
        assert set(ahead._waiting) <= set(range(0, 21, 4))  # nothing that nobody asks for
        if processes:
            for child in ahead._pool._processes:
                os.kill(child, signal.SIGKILL)
            with pytest.raises(BrokenProcessPool):
                ahead._pool.submit(int).result()
            with pytest.raises(RecipeError, match="was ended, as by lack of memory"):
                ahead.take(0)
    finally:
        ahead.close()
