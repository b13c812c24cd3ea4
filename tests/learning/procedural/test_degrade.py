"""What is done to pictures moves nothing."""

import numpy as np

from resight.learning.procedural.degrade import degrade
from resight.learning.procedural.settings import PLAIN, Rendering

SIDE = 65


def spot(x, y):
    at = np.arange(SIDE)
    value = 0.2 + 0.8 * np.exp(-((at - x) ** 2 + (at[:, None] - y) ** 2) / 18)
    return np.repeat(value[..., None], 3, axis=2).astype(np.float32)


def middle(picture):
    """The centroid of what is brighter than the surroundings, near the middle, where no border matters."""
    weight = np.clip(picture.mean(2) - np.median(picture) - 0.1, 0, None)
    return np.array([(weight.sum(axis) * np.arange(SIDE)).sum() for axis in (0, 1)]) / weight.sum()


def test_blur_noise_and_compression_leave_things_where_they_are():
    hard = Rendering(defocus=1, motion=1, blur=4, noisy=1, noise=0.05, jpeg=1, quality=(20, 60), vignette=0, balance=0)
    light, edges = spot(34.0, 30.0), np.zeros((SIDE, SIDE), bool)
    worse = []
    for seed in range(12):
        taken = degrade(light, edges, np.random.default_rng(seed), hard)
        worse.append(np.abs(taken - np.sqrt(light)).max())
        np.testing.assert_allclose(middle(taken), [34, 30], atol=0.35)
    assert min(worse) > 0.02


def test_without_settings_it_is_only_the_grading_of_light():
    light = np.random.default_rng(0).random((SIDE, SIDE, 3), dtype=np.float32)
    taken = degrade(light, np.zeros((SIDE, SIDE), bool), np.random.default_rng(0), PLAIN)
    np.testing.assert_allclose(taken, np.sqrt(light), atol=0.5 / 255 + 1e-6)


def test_edges_are_smoothed_and_nothing_else():
    light = np.zeros((SIDE, SIDE, 3), np.float32)
    light[:, 32:] = 1
    edges = np.zeros((SIDE, SIDE), bool)
    edges[:32, 31:33] = True
    taken = degrade(light, edges, np.random.default_rng(0), PLAIN)
    np.testing.assert_allclose(taken[5, 31:33, 0] ** 2, [0.25, 0.75], atol=0.01)
    assert np.array_equal(taken[40:], light[40:])
