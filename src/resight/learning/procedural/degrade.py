"""What a camera does to a picture: exposure, colour, blur, noise, compression. It moves nothing."""

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.learning.procedural.settings import Rendering

Picture = NDArray[np.float32]


def degrade(light: Picture, edges: NDArray[np.bool_], rng: np.random.Generator, settings: Rendering) -> Picture:
    """A picture H×W×3 in [0, 1] of light H×W×3 that is linear. edges: pixels that see more than one surface."""
    picture = _exposed(_smoothed(light, edges), rng, settings)
    scale = settings.blur * picture.shape[0] / 160
    if rng.random() < settings.defocus:
        sigma = max(0.3, scale * rng.random() ** 1.5)
        picture = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    if rng.random() < settings.motion:
        picture = _moved(picture, rng.uniform(0, np.pi), 1 + scale * 2 * rng.random())
    if rng.random() < settings.noisy:
        strength = settings.noise * rng.random() ** 2
        # Of photons, which grows as the root of the light, and of the sensor.
        noise = rng.standard_normal(picture.shape, dtype=np.float32)
        noise *= np.sqrt(np.float32(0.2 * strength**2) + np.float32(0.8 * strength**2) * picture)
        picture = picture + noise
    levels = cv2.convertScaleAbs(np.maximum(picture, 0, out=picture), alpha=255)
    if rng.random() < settings.jpeg:
        quality = int(rng.integers(settings.quality[0], settings.quality[1] + 1))
        stored = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        levels = np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR))[..., ::-1]
    return np.asarray(levels, np.float32) / np.float32(255)


def _smoothed(light: Picture, edges: NDArray[np.bool_]) -> Picture:
    """At edges, one ray a pixel makes stairs: there the mean of 3×3, weighed 1 2 1, of what a display can show."""
    soft = cv2.GaussianBlur(np.minimum(light, 1.0), (3, 3), 0, borderType=cv2.BORDER_REPLICATE)
    return np.where(edges[..., None], soft, light)


def _exposed(light: Picture, rng: np.random.Generator, settings: Rendering) -> Picture:
    """As bright as a camera would have it, more or less; the light's colour nearly balanced; darker in the corners.

    Light is graded by its square root, as in sRGB nearly; what is brighter than white is cut off.
    """
    measured = float(light.mean())
    stops = rng.uniform(-settings.exposure, settings.exposure)
    gain = (0.2 / max(measured, 0.01)) ** settings.metering * 2**stops
    factor = (gain * np.exp(settings.balance * rng.uniform(-1, 1, 3))).astype(np.float32)
    dark = np.float32(settings.vignette * rng.random() ** 2)
    at = np.linspace(-1, 1, len(light), dtype=np.float32) ** 2
    corners = 1 - dark / 2 * (at + at[:, None])
    picture = light * factor
    picture *= corners[..., None]
    return np.asarray(np.sqrt(np.minimum(picture, 1, out=picture), out=picture))


def _moved(picture: Picture, angle: float, half: float) -> Picture:
    """Blurred along a line of so many pixels to both sides."""
    reach = int(np.ceil(half))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = (1 - np.abs(across)).clip(0, 1) * (half + 0.5 - np.abs(along)).clip(0, 1)
    return np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE))
