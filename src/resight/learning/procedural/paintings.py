"""Pictures with no words: landscapes, portraits, still lifes, abstract ones, brushwork."""

from collections.abc import Callable

import cv2
import numpy as np

from resight.learning.procedural.colours import Pixels, palette, plain, ramp, recoloured, resized, rgb
from resight.learning.procedural.marks import scribble

Surfaces = Callable[[int], Pixels]
"""Surfaces by number, any number from 0 on."""


def painting(rng: np.random.Generator, width: int, height: int, pool: Surfaces) -> Pixels:
    """A picture H×W×3 uint8 with light and shade of all scales upon it."""
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    picture = kind(rng, width, height, pool)
    return shaded(picture, rng, pool, float(rng.uniform(0.1, 0.7)))


def piece(rng: np.random.Generator, width: int, height: int, pool: Surfaces) -> Pixels:
    """A part of a surface of the pool, H×W×3, turned and mirrored as it comes."""
    whole = pool(int(rng.integers(1 << 30)))
    side = len(whole)
    w, h = (int(s) for s in rng.integers(side // 3, side, 2))
    x, y = int(rng.integers(side - w + 1)), int(rng.integers(side - h + 1))
    part = np.rot90(whole[y : y + h, x : x + w], int(rng.integers(4)))
    return resized(np.ascontiguousarray(part[:, ::-1] if rng.random() < 0.5 else part), width, height)


def shaded(picture: Pixels, rng: np.random.Generator, pool: Surfaces, strength: float) -> Pixels:
    """Lighter and darker by the lightness of a surface."""
    height, width = picture.shape[:2]
    grey = cv2.cvtColor(piece(rng, width, height, pool), cv2.COLOR_RGB2GRAY)
    factor = np.float32(1 - strength / 2) + np.float32(strength / 255) * grey
    return np.asarray(cv2.multiply(picture, cv2.merge([factor] * 3), dtype=cv2.CV_8U))


def _surface(rng: np.random.Generator, width: int, height: int, pool: Surfaces) -> Pixels:
    pixels = piece(rng, width, height, pool)
    return recoloured(pixels, ramp(rng, 4)) if rng.random() < 0.7 else pixels


def _landscape(rng: np.random.Generator, width: int, height: int, pool: Surfaces) -> Pixels:
    colours = palette(rng, 8)
    down = np.linspace(0, 1, height)[:, None, None]
    sky = (1 - down) * colours[0] + down * colours[1]
    picture = np.ascontiguousarray(np.broadcast_to(sky, (height, width, 3)).astype(np.uint8))
    if rng.random() < 0.5:
        at = (int(rng.integers(width)), int(rng.integers(1 + height // 2)))
        cv2.circle(picture, at, int(rng.integers(4, 5 + height // 5)), rgb(colours[2]), -1, cv2.LINE_AA)
    x = np.arange(width)
    for layer in range(int(rng.integers(2, 6))):
        waves = np.zeros(width)
        for k in (1, 2, 4, 9):
            waves += rng.normal(0, 0.12 / k) * np.sin(x * k * rng.uniform(0.5, 2) * 6.3 / width + rng.uniform(0, 6))
        ridge = (height * (0.25 + 0.16 * layer + waves)).clip(0, height - 1)
        top = int(ridge.min())
        below = (np.arange(top, height)[:, None] > ridge).astype(np.uint8)
        cv2.copyTo(_surface(rng, width, height - top, pool), below, picture[top:])
        for _ in range(int(rng.integers(0, 6))):
            foot = int(rng.integers(width))
            top, size = int(ridge[foot]), int(rng.integers(4, max(5, height // 4)))
            colour = rgb(colours[int(rng.integers(8))])
            if rng.random() < 0.6:  # a tree
                cv2.line(
                    picture, (foot, top + 4), (foot, top - size), rgb(colours[3] // 2), max(1, size // 8), cv2.LINE_AA
                )
                cv2.ellipse(picture, (foot, top - size), (size // 2 + 1, size), 0, 0, 360, colour, -1, cv2.LINE_AA)
            else:  # a house
                cv2.rectangle(picture, (foot - size // 2, top - size), (foot + size // 2, top + 3), colour, -1)
                roof = np.array(
                    [[foot - size, top - size], [foot + size, top - size], [foot, top - 2 * size]], np.int32
                )
                cv2.fillPoly(picture, [roof], rgb(colours[4]), cv2.LINE_AA)
    return picture


def _portrait(rng: np.random.Generator, width: int, height: int, pool: Surfaces) -> Pixels:
    colours = palette(rng, 7)
    picture = _surface(rng, width, height, pool)
    s = min(width, height)
    for _ in range(int(rng.integers(1, 4)) if width > height else 1):
        x, y = int(rng.uniform(0.25, 0.75) * width), int(rng.uniform(0.25, 0.45) * height)
        r = int(s * rng.uniform(0.08, 0.22))
        body = np.array(
            [[x - 2 * r, height], [x - int(1.3 * r), y + 2 * r], [x + int(1.3 * r), y + 2 * r], [x + 2 * r, height]]
        )
        cv2.fillPoly(picture, [body.astype(np.int32)], rgb(colours[0]), cv2.LINE_AA)
        cv2.ellipse(
            picture, (x, y - r // 3), (int(1.2 * r), int(1.4 * r)), 0, 0, 360, rgb(colours[1] // 2), -1, cv2.LINE_AA
        )
        skin = rgb(
            (np.array([235, 190, 160]) * rng.uniform(0.4, 1.0) + rng.uniform(-15, 15, 3)).clip(0, 255).astype(np.uint8)
        )
        cv2.rectangle(picture, (x - r // 3, y), (x + r // 3, y + 2 * r), skin, -1)
        cv2.ellipse(picture, (x, y), (r, int(1.3 * r)), float(rng.uniform(-15, 15)), 0, 360, skin, -1, cv2.LINE_AA)
        dark = rgb(colours[2] // 3)
        for side in (-1, 1):
            cv2.ellipse(
                picture,
                (x + side * r // 2, y - r // 5),
                (max(1, r // 5), max(1, r // 9)),
                0,
                0,
                360,
                dark,
                -1,
                cv2.LINE_AA,
            )
        cv2.line(picture, (x, y), (x - r // 8, y + r // 3), dark, max(1, r // 14), cv2.LINE_AA)
        cv2.ellipse(
            picture,
            (x, y + int(0.65 * r)),
            (max(1, r // 3), max(1, r // 8)),
            0,
            0,
            180,
            rgb(colours[3]),
            -1,
            cv2.LINE_AA,
        )
    return picture


def _still_life(rng: np.random.Generator, width: int, height: int, pool: Surfaces) -> Pixels:
    colours = palette(rng, 8)
    picture = _surface(rng, width, height, pool)
    table = int(height * rng.uniform(0.5, 0.75))
    picture[table:] = _surface(rng, width, height - table, pool)
    for _ in range(int(rng.integers(3, 9))):
        x, y = int(rng.uniform(0.05, 0.95) * width), int(rng.uniform(0.45, 0.9) * height)
        a, b = (max(3, int(v)) for v in rng.uniform(0.05, 0.2, 2) * min(width, height))
        colour, steps = colours[int(rng.integers(8))].astype(np.float64), 7
        for step in range(steps):  # towards the light
            share = step / steps
            at = (round(x - a * 0.35 * share), round(y - b * 0.4 * share))
            tone = rgb((colour * (0.45 + 0.55 * share) + 70 * share**4).clip(0, 255).astype(np.uint8))
            cv2.ellipse(
                picture, at, (round(a * (1 - share)) + 1, round(b * (1 - share)) + 1), 0, 0, 360, tone, -1, cv2.LINE_AA
            )
    return picture


def _abstract(rng: np.random.Generator, width: int, height: int, pool: Surfaces) -> Pixels:
    colours = palette(rng, 7)
    picture = plain(width, height, colours[0])
    straight = rng.random() < 0.3
    for _ in range(int(rng.integers(6, 40))):
        middle, size = rng.uniform(0, (width, height)), rng.uniform(0.03, 0.35) * max(width, height)
        colour = rgb(colours[int(rng.integers(7))])
        if straight:
            a, b = (
                (middle - size * rng.random(2)).astype(int).tolist(),
                (middle + size * rng.random(2)).astype(int).tolist(),
            )
            cv2.rectangle(picture, a, b, colour, -1)
            cv2.rectangle(picture, a, b, rgb(colours[1]), int(rng.integers(1, 5)))
            continue
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        corners = middle + size * rng.uniform(0.4, 1, (len(angles), 1)) * np.stack(
            [np.cos(angles), np.sin(angles)], axis=1
        )
        cv2.fillPoly(picture, [corners.round().astype(np.int32)], colour, cv2.LINE_AA)
    if rng.random() < 0.5:
        scribble(picture, (0, 0, width, height), rng, colours)
    return picture


def _brushwork(rng: np.random.Generator, width: int, height: int, pool: Surfaces) -> Pixels:
    """Short strokes in the colours of another painting, along the run of a surface's lightness."""
    under = _KINDS[int(rng.integers(4))](rng, width, height, pool)
    field = cv2.cvtColor(piece(rng, width, height, pool), cv2.COLOR_RGB2GRAY).astype(np.float32)
    bend = rng.uniform(0.5, 3) / 255
    picture = under.copy()
    count, thick = int(rng.integers(200, 500)), int(rng.integers(1, 5))
    at = (rng.random((count, 2)) * (width, height)).astype(int)
    angle = bend * field[at[:, 1], at[:, 0]] + rng.normal(0, 0.2, count)
    reach = rng.uniform(2, 12, (count, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    tones = (under[at[:, 1], at[:, 0]] * rng.uniform(0.7, 1.3, (count, 1))).clip(0, 255).astype(int)
    for a, b, tone in zip(
        (at - reach).astype(int).tolist(), (at + reach).astype(int).tolist(), tones.tolist(), strict=True
    ):
        cv2.line(picture, a, b, tone, thick, cv2.LINE_AA)
    return picture


_KINDS: tuple[Callable[[np.random.Generator, int, int, Surfaces], Pixels], ...] = (
    _landscape,
    _portrait,
    _still_life,
    _abstract,
    _brushwork,
    _surface,
)
