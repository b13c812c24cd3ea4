"""Sampling of textures, against the definition in floating point."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from resight.learning.procedural.textures import pyramid, sample, textures  # noqa: E402


def test_samples_are_bilinear_and_wrap_at_the_level_that_the_footprint_says():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (16, 32)]
    made = textures([pyramid(p) for p in pictures], "cpu")
    u, v = rng.uniform(-3, 3, (2, 300)).astype(np.float32)
    for number, level in ((0, 0), (1, 0), (1, 1), (0, 2), (1, 9)):
        start, bits = (torch.full((300,), int(a[number]), dtype=torch.int32) for a in (made.start, made.bits))
        footprint = torch.full((300,), 1.1 * 2.0**level)
        got = np.stack([c.numpy() for c in sample(made.texels, start, bits, *map(torch.from_numpy, (u, v)), footprint)])
        side = len(pictures[number])
        small = max(side >> level, 1)
        # A level's texel is the mean of those it covers, but for the rounding of each level.
        mean = pictures[number].reshape(small, side // small, small, side // small, 3).mean((1, 3)) / 255
        x, y = u * small - 0.5, v * small - 0.5
        fx, fy = x - np.floor(x), y - np.floor(y)
        expected = np.zeros((300, 3))
        for dx, wx in ((0, 1 - fx), (1, fx)):
            for dy, wy in ((0, 1 - fy), (1, fy)):
                column, row = (np.floor(x).astype(int) + dx) % small, (np.floor(y).astype(int) + dy) % small
                expected += (wx * wy)[:, None] * mean[row, column]
        np.testing.assert_allclose(got.T, expected, atol=0.012 + 0.003 * level)
