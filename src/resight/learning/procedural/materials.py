"""What floors, walls and clothes are made of, SIDE×SIDE×3, without a seam where it repeats, or nearly so."""

import numpy as np
from numpy.typing import NDArray

from resight.learning.procedural.colours import Pixels, coloured, palette, ramp, stretched

SIDE = 128
Values = NDArray[np.float32]


def fractal(
    rng: np.random.Generator, slope: float, side: int = SIDE, *, stretch: tuple[float, float] = (1, 1)
) -> Values:
    """Noise side×side in [0, 1] that repeats, of amplitudes f^-slope; natural pictures have about 1 (Field, 1987).

    stretch: how much longer its features are across and down.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((side, side)))
    fy, fx = np.fft.fftfreq(side)[:, None] * stretch[1], np.fft.rfftfreq(side)[None] * stretch[0]
    amplitude = np.maximum(np.hypot(fx, fy), 1 / side) ** -slope
    return stretched(np.fft.irfft2(spectrum * amplitude, (side, side)))


def cells(rng: np.random.Generator, count: int, side: int = SIDE) -> tuple[Values, Values, NDArray[np.int64]]:
    """Distances in pixels to the nearest and the second of so many points, on a torus, and which is the nearest."""
    points = rng.random((count, 2)) * side
    at = np.arange(side, dtype=np.float32)
    across = np.abs(at[:, None] - points[:, 0].astype(np.float32))
    down = np.abs(at[:, None] - points[:, 1].astype(np.float32))
    across, down = (np.minimum(a, side - a) ** 2 for a in (across, down))
    squared = down[:, None] + across[None]
    nearest = np.argmin(squared, axis=2)
    two = np.partition(squared, 1, axis=2)
    return np.sqrt(two[..., 0]), np.sqrt(two[..., 1]), nearest


def noise(rng: np.random.Generator) -> Pixels:
    """Noise of any colours."""
    return coloured(fractal(rng, rng.uniform(0.6, 1.8)), ramp(rng, int(rng.integers(2, 6))))


def plaster(rng: np.random.Generator) -> Pixels:
    """One colour with a little relief."""
    base = palette(rng, 3)[rng.integers(3)].astype(np.float32)
    relief = fractal(rng, rng.uniform(0.3, 1.2)) - 0.5
    return np.asarray((base + rng.uniform(20, 90) * relief[..., None]).clip(0, 255), np.uint8)


def stone(rng: np.random.Generator) -> Pixels:
    """Rubble, cobbles, cracked earth."""
    first, second, which = cells(rng, int(rng.integers(8, 70)))
    gap = (second - first) / rng.uniform(1.5, 4)
    tone = rng.uniform(0.3, 0.9, 80)[which] + rng.uniform(0.2, 0.6) * (fractal(rng, 1.0) - 0.5)
    return coloured((tone * gap.clip(0, 1)).astype(np.float32), ramp(rng, 4))


def bricks(rng: np.random.Generator) -> Pixels:
    """Bricks or tiles."""
    rows = int(rng.choice([4, 8, 16]))
    columns = max(1, rows // int(rng.choice([1, 2, 4])))
    height, width = SIDE // rows, SIDE // columns
    shift = rng.choice([0.0, 0.5])
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    row = (y // height).astype(int)
    x = (x + shift * width * (row % 2)) % SIDE
    column = (x // width).astype(int)
    edge = np.minimum(np.minimum(x % width, width - x % width), np.minimum(y % height, height - y % height))
    joint = (edge / rng.uniform(0.8, 2.5)).clip(0, 1)
    spread = rng.uniform(0, 0.5)
    tone = 0.6 + spread * (rng.random((rows, columns))[row, column] - 0.5)
    tone = tone + rng.uniform(0.1, 0.5) * (fractal(rng, rng.uniform(0.5, 1.3)) - 0.5)
    mortar = rng.uniform(0, 1)
    return coloured((tone * joint + mortar * (1 - joint)).astype(np.float32), ramp(rng, 4))


def wood(rng: np.random.Generator) -> Pixels:
    """Boards."""
    planks = int(rng.choice([1, 2, 4, 8]))
    grain = fractal(rng, rng.uniform(0.8, 1.4), stretch=(rng.uniform(5, 16), 1))
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 9) * fractal(rng, 1.6, stretch=(6, 1)))
    number = np.arange(SIDE) * planks // SIDE
    tone = 0.6 * grain + 0.3 * rings + rng.uniform(-0.2, 0.2, planks)[number][:, None]
    if planks > 1:
        tone[np.diff(number, prepend=-1) != 0] *= 0.3
    return coloured(stretched(tone), ramp(rng, 3))


def marble(rng: np.random.Generator) -> Pixels:
    """Veins."""
    bent = fractal(rng, 1.5) * rng.uniform(2, 8)
    return coloured((0.5 + 0.5 * np.sin(2 * np.pi * bent)).astype(np.float32) ** rng.uniform(0.5, 3), ramp(rng, 3))


def cloth(rng: np.random.Generator) -> Pixels:
    """Stripes, checks and tartans."""
    colours = palette(rng, 5)

    def bands() -> Pixels:
        period = int(rng.choice([8, 16, 32, 64, 128]))
        cuts = np.sort(rng.integers(0, period, int(rng.integers(1, 5))))
        return colours[np.searchsorted(cuts, np.arange(SIDE) % period) % 5]

    across, down = bands().astype(np.int32), bands().astype(np.int32)
    kind = rng.integers(3)
    woven = (across[None] + down[:, None]) // 2 if kind else np.broadcast_to(across[None], (SIDE, SIDE, 3))
    if kind == 2:
        y, x = np.mgrid[:SIDE, :SIDE]
        woven = np.where((((x + y) // 2) % 2)[..., None] == 0, across[None], down[:, None])
    picture = np.asarray(woven, np.float32) + rng.uniform(0, 40) * (fractal(rng, 0.3)[..., None] - 0.5)
    picture = picture.clip(0, 255).astype(np.uint8)
    return picture if rng.random() < 0.5 else picture.transpose(1, 0, 2)
