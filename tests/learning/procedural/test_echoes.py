"""Pictures learned from again, altered: what a pair knows of itself stays true."""

import numpy as np
import torch

from resight.learning.procedural.echoes import altered
from resight.learning.procedural.scenes import Scenes, render

SIDE = 7


def coded():
    """One pair: a pixel's number in its channels, as n, n + 100 and n + 200; places in the other view at random."""
    rng = np.random.default_rng(3)
    number = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    images = np.broadcast_to(np.stack([number, number + 100, number + 200]), (1, 2, 3, SIDE, SIDE)).astype(np.float32)
    warp = rng.integers(0, SIDE, (1, 2, SIDE, SIDE, 2)).astype(np.float32)
    visible = rng.random((1, 2, SIDE, SIDE)) < 0.5
    return Scenes(*(torch.from_numpy(a.copy()) for a in (images, warp, visible)), torch.zeros(1, dtype=torch.int64))


def relations(scenes):
    """Which pixel, by number, is which one of the other view, and whether it is seen there."""
    found, number = set(), scenes.images[0].amin(dim=1).long()
    for view in (0, 1):
        for y in range(SIDE):
            for x in range(SIDE):
                column, row = scenes.warp[0, view, y, x].long().tolist()
                there = int(number[1 - view, row, column])
                found.add((view, int(number[view, y, x]), there, bool(scenes.visible[0, view, y, x])))
    return found


def test_corresponding_pixels_correspond_afterwards_in_all_ways_of_turning_mirroring_and_colouring():
    before, seen = coded(), set()
    for seed in range(400):
        after = altered(before, torch.Generator().manual_seed(seed))
        shown = tuple(after.images[0, 0, :, 0, 0].tolist()), after.images[0, 0, 0, 0, -1].item()
        if shown not in seen:
            seen.add(shown)
            assert relations(after) == relations(before)
    assert len(seen) == 8 * 6


def test_rendered_pairs_look_as_alike_as_before():
    before = render(4, 0, 4, 64)
    for seed in range(4):
        assert difference(altered(before, torch.Generator().manual_seed(seed))) == difference(before)


def difference(scenes):
    """Mean difference of grey between visible pixels and their rounded places, which a wrong turn would raise."""
    grey = scenes.images.double().mean(dim=2)
    b, v, y, x = scenes.visible.nonzero(as_tuple=True)
    there = scenes.warp[b, v, y, x].round().long().clamp(0, grey.shape[-1] - 1)
    return round(float((grey[b, v, y, x] - grey[b, 1 - v, there[:, 1], there[:, 0]]).abs().mean()), 6)
