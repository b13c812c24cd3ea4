"""A picture blurred, noisy, compressed, or taken in other light; nothing moves.

Each function is of (pixels H×W×3 uint8, strength, seed) and gives pixels. A strength of 0 changes nothing, and with one
seed a stronger change goes the same way as a weaker one. What is done to light is done to linear light (IEC 61966-2-1).
"""

import io

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from resight.robustness.geometric import Pixels, Seed

Light = NDArray[np.float32]

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear light, ITU-R BT.709
_MOON = np.array([0.8, 0.95, 1.25], np.float32)
_LAMP = np.array([1.45, 0.95, 0.4], np.float32)


def linear(pixels: Pixels) -> Light:
    """Light in [0, 1] of sRGB levels."""
    table = np.arange(256, dtype=np.float32) / 255
    table = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return np.asarray(table[pixels], np.float32)


def levels(light: Light) -> Pixels:
    """The nearest sRGB levels of light, cut off below 0 and above 1."""
    x = np.clip(light, 0, 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * encoded), np.uint8)


def blur(pixels: Pixels, percent: float, seed: Seed) -> Pixels:
    """Gaussian, of so many per cent of the longer side as standard deviation; borders are reflected."""
    sigma = percent / 100 * max(pixels.shape[:2])
    if sigma == 0:
        return pixels
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.uint8)


def noise(pixels: Pixels, deviation: float, seed: Seed) -> Pixels:
    """Gaussian, independent in each pixel and channel; deviation: in levels of 255."""
    drawn = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32)
    return np.asarray(np.clip(np.rint(pixels + np.float32(deviation) * drawn), 0, 255), np.uint8)


def compress(pixels: Pixels, loss: float, seed: Seed) -> Pixels:
    """Through JPEG at quality 100 − loss, colour at half the resolution; as it is where the loss is 0."""
    if loss == 0:
        return pixels
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=round(100 - loss), subsampling=2)
    with PIL.Image.open(buffer) as image:
        return np.array(image.convert("RGB"))


def darken(pixels: Pixels, stops: float, seed: Seed) -> Pixels:
    """Exposed so many stops shorter: the light halved at each, then stored in 8 bits again."""
    return levels(linear(pixels) * np.float32(2.0**-stops))


def brighten(pixels: Pixels, stops: float, seed: Seed) -> Pixels:
    """Exposed so many stops longer: the light doubled at each, what is above white lost."""
    return levels(linear(pixels) * np.float32(2.0**stops))


def tint(pixels: Pixels, stops: float, seed: Seed) -> Pixels:
    """A colour cast, warm or cold: red up and blue down by so many stops, or the reverse, at the same luminance."""
    side = 1 if np.random.default_rng(seed).random() < 0.5 else -1
    gain = np.array([2.0 ** (side * stops), 1.0, 2.0 ** (-side * stops)], np.float32)
    light = linear(pixels)
    changed = light * gain
    before, after = float((light @ _LUMA).mean()), float((changed @ _LUMA).mean())
    return levels(changed * np.float32(before / after)) if after > 0 else pixels


def fade(pixels: Pixels, share: float, seed: Seed) -> Pixels:
    """Colours mixed with the grey of their luminance; nothing but grey at a share of 1."""
    light = linear(pixels)
    return levels(light + np.float32(share) * ((light @ _LUMA)[..., None] - light))


def night(pixels: Pixels, strength: float, seed: Seed) -> Pixels:
    """A day picture by night: a photometric model, not a photograph; strength in [0, 1].

    The day's light falls by 6·strength stops and turns bluish. Three lamps of warm light, at places drawn evenly, each
    a Gaussian of a quarter of the longer side, give at their centres a tenth of the day's light times strength.
    The camera then exposes a third of the lost stops longer (in the mean of the logarithm of luminance, a gain), which
    amplifies the noise of photons and of the sensor. Shadows, lit windows and what lamps light from below there is not.
    """
    if strength == 0:
        return pixels
    rng = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    places, drawn = rng.random((3, 2)), rng.standard_normal(pixels.shape, np.float32)
    day = linear(pixels)
    dim = 2.0 ** (-6 * strength)
    ambient = (1 - strength) + strength * _MOON
    y, x = np.mgrid[:height, :width].astype(np.float32)
    spread = max(height, width) / 4
    pools = sum(np.exp(-((x - u * width) ** 2 + (y - v * height) ** 2) / (2 * spread**2)) for u, v in places)
    light = day * (dim * ambient + 0.1 * strength * np.asarray(pools)[..., None] * _LAMP)
    lost = float(np.mean(np.log2((day @ _LUMA + 1e-4) / (light @ _LUMA + 1e-4))))
    # Variances of a photon's and the sensor's share, in units of white at the day's exposure.
    deviation = np.sqrt(strength * (2e-3 * light + 4e-5))
    return levels((2.0 ** (lost / 3) * (light + deviation * drawn)).astype(np.float32))
