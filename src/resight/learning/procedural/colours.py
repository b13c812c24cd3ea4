"""Colours that go together."""

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def palette(rng: np.random.Generator, count: int) -> Pixels:
    """count×3 RGB: of few hues, muted or strong, of all lightnesses, sometimes with black and white among them."""
    # Two in five of earth and skin; most things are muted.
    hue = rng.uniform(0.02, 0.15) if rng.random() < 0.4 else rng.random()
    spread, strong = rng.choice([0.03, 0.1, 0.5], p=[0.3, 0.3, 0.4]), rng.beta(1.0, 1.7)
    light = rng.permutation(np.linspace(0.08, 0.97, count) + rng.uniform(-0.1, 0.1, count)).clip(0, 1)
    hues = (hue + rng.choice([0, 0.5, 1 / 3], count, p=[0.75, 0.15, 0.1]) + rng.normal(0, spread, count)) % 1
    saturations = (strong * rng.uniform(0.4, 1.2, count)).clip(0, 1)
    colours = [
        colorsys.hls_to_rgb(*three) for three in zip(hues.tolist(), light.tolist(), saturations.tolist(), strict=True)
    ]
    rgb = (255 * np.array(colours)).round().astype(np.uint8)
    for extreme in (0, 255):
        if rng.random() < 0.25:
            rgb[rng.integers(count)] = extreme
    return rgb


def ramp(rng: np.random.Generator, stops: int) -> Pixels:
    """256×3: a run through colours of a palette, from dark to light or in any order."""
    colours = palette(rng, stops).astype(np.float64)
    if rng.random() < 0.7:
        colours = colours[np.argsort(colours @ [0.3, 0.6, 0.1])]
    places = np.sort(rng.random(stops))
    places = (places - places[0]) / max(places[-1] - places[0], 1e-6) * 255
    at = np.arange(256)
    return np.stack([np.interp(at, places, colours[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


def coloured(values: NDArray[np.float32], colours: Pixels) -> Pixels:
    """H×W×3 of H×W values in [0, 1] and 256×3 colours."""
    return colours[(values * 255).clip(0, 255).astype(np.uint8)]


def plain(width: int, height: int, colour: Pixels) -> Pixels:
    """H×W×3 of one colour."""
    picture = np.empty((height, width, 3), np.uint8)
    cv2.rectangle(picture, (0, 0), (width, height), rgb(colour), -1)
    return picture


def recoloured(pixels: Pixels, colours: Pixels) -> Pixels:
    """H×W×3 by its lightness, in other colours (256×3)."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.LUT(cv2.merge([grey] * 3), colours.reshape(256, 1, 3)))


def rgb(colour: Pixels) -> tuple[int, int, int]:
    """A colour as OpenCV's drawing functions take it."""
    return int(colour[0]), int(colour[1]), int(colour[2])


def stretched(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Values moved and scaled to [0, 1]."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-9)).astype(np.float32)


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Pixels at another size, anti-aliased where it is smaller."""
    smaller = width * height < pixels.shape[0] * pixels.shape[1]
    return np.asarray(
        cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    )
