"""Prints and surfaces that are drawn by code."""

import numpy as np
import pytest

from resight.learning.procedural.materials import SIDE, fractal
from resight.learning.procedural.paintings import painting
from resight.learning.procedural.patterns import pattern
from resight.learning.procedural.prints import print_


def surface(number):
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def test_prints_of_all_forms_are_drawn_and_differ():
    rng, seen = np.random.default_rng(0), set()
    for side in (64, 128):
        for aspect in np.exp(np.linspace(-2.5, 2.5, 40)):
            made = print_(rng, rng, float(aspect), surface, pure=0.2, side=side)
            assert made.shape == (side, side, 3) and made.dtype == np.uint8
            seen.add(made.tobytes())
    assert len(seen) == 80


def test_the_layout_is_one_generator_and_what_fills_it_the_other():
    def made(layout, content):
        return print_(np.random.default_rng(layout), np.random.default_rng(content), 1.0, surface)

    assert np.array_equal(made(1, 2), made(1, 2))
    assert not np.array_equal(made(1, 2), made(1, 3)) and not np.array_equal(made(1, 2), made(4, 2))


@pytest.mark.parametrize(("width", "height"), [(10, 10), (10, 60), (60, 10), (37, 41)])
def test_paintings_of_any_size(width, height):
    rng = np.random.default_rng(1)
    for _ in range(30):
        made = painting(rng, width, height, surface)
        assert made.shape == (height, width, 3) and made.dtype == np.uint8


def test_all_sorts_of_surfaces_have_something_on_them():
    rng = np.random.default_rng(2)
    for _ in range(60):
        made = pattern(rng)
        assert made.shape == (SIDE, SIDE, 3) and made.dtype == np.uint8 and made.std() > 0.5


def test_noise_has_the_spectrum_that_was_asked_for():
    for slope in (0.5, 1.0, 1.5):
        noise = fractal(np.random.default_rng(3), slope)
        amplitude = np.abs(np.fft.fft2(noise))
        radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE) * SIDE] * 2))
        middles = np.array([4, 8, 16, 32])
        rings = [np.sqrt((amplitude[(radius > m / 1.3) & (radius < m * 1.3)] ** 2).mean()) for m in middles]
        assert -np.polyfit(np.log(middles), np.log(rings), 1)[0] == pytest.approx(slope, abs=0.2)
        assert noise.min() == 0 and noise.max() == 1
