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


def taken_of(light, seed=0, **changes):
    settings = Rendering.model_validate(PLAIN.model_dump() | changes)
    return degrade(light, np.zeros((SIDE, SIDE), bool), np.random.default_rng(seed), settings)


def test_metering_brings_the_mean_light_to_the_same_and_exposure_moves_it_by_stops():
    even = np.ones((SIDE, SIDE, 3), np.float32)
    for level in (0.05, 0.6):
        np.testing.assert_allclose(taken_of(level * even, metering=1.0) ** 2, 0.2, atol=0.005)
    half = taken_of(0.05 * even, metering=0.5)
    np.testing.assert_allclose(half**2, np.sqrt(0.2 * 0.05), atol=0.005)
    stops = [np.log2(taken_of(0.2 * even, seed, exposure=1.5).mean() ** 2 / 0.2) for seed in range(40)]
    assert -1.52 < min(stops) < -1 and 1 < max(stops) < 1.52


def test_the_corners_are_darkened_and_the_colours_moved_no_further_than_asked():
    even = np.full((SIDE, SIDE, 3), 0.3, np.float32)
    darker, tinted = [], []
    for seed in range(60):
        light = taken_of(even, seed, vignette=0.6) ** 2
        np.testing.assert_allclose(light[SIDE // 2, SIDE // 2], 0.3, atol=0.005)
        darker.append(1 - light[0, 0, 0] / light[SIDE // 2, SIDE // 2, 0])
        tinted.append(np.log(taken_of(even, seed, balance=0.2)[0, 0] ** 2 / 0.3))
    assert 0.4 < max(darker) < 0.62 and min(darker) > -0.02
    assert 0.15 < np.max(tinted) < 0.22 and -0.22 < np.min(tinted) < -0.15


def test_noise_has_at_most_the_deviation_asked_for_and_grows_with_the_light():
    light = np.full((SIDE, SIDE, 3), 0.04, np.float32)
    light[:, SIDE // 2 :] = 0.8
    taken = [taken_of(light, seed, noisy=1.0, noise=0.04) for seed in range(40)]
    dark, bright = (np.array([each[:, half].std() for each in taken]) for half in (slice(0, 30), slice(34, None)))
    assert 0.03 < bright.max() < 0.04
    noticed = bright > 0.01
    # Variances are 0.2 + 0.8 of the picture's value, the root of the light, but for rounding to levels.
    wanted = np.sqrt((0.2 + 0.8 * np.sqrt(0.04)) / (0.2 + 0.8 * np.sqrt(0.8)))
    assert noticed.sum() > 5
    np.testing.assert_allclose((dark / bright)[noticed], wanted, rtol=0.06)


def test_edges_are_smoothed_and_nothing_else():
    light = np.zeros((SIDE, SIDE, 3), np.float32)
    light[:, 32:] = 1
    edges = np.zeros((SIDE, SIDE), bool)
    edges[:32, 31:33] = True
    taken = degrade(light, edges, np.random.default_rng(0), PLAIN)
    np.testing.assert_allclose(taken[5, 31:33, 0] ** 2, [0.25, 0.75], atol=0.01)
    assert np.array_equal(taken[40:], light[40:])
