"""Curves of a run as SVG: one figure over the steps, readable on light and dark pages alike."""

import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]  # (x, y), x increasing

_INK, _COLOURS = "#7d7d7d", ("#2f80c9", "#d5651f", "#1f9d6b", "#c0588f")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BELOW = 640.0, 220.0, 64.0, 12.0, 44.0  # pixels
_MOST = 640  # points drawn of a series, one a pixel


def curves(series: Mapping[str, Points], *, across: str, up: str) -> str:
    """SVG of named series, their points joined; those of more points than pixels by their means.

    across, up: what the axes show. Raises ValueError where there is no finite point.
    """
    drawn = {name: _thinned([(x, y) for x, y in points if math.isfinite(y)]) for name, points in series.items()}
    every = [point for points in drawn.values() for point in points]
    if not every:
        raise ValueError("a curve needs a point")
    along, upwards = (ticks(min(values), max(values)) for values in zip(*every, strict=True))

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - along[0]) / (along[-1] - along[0])
        high = (y - upwards[0]) / (upwards[-1] - upwards[0])
        return _LEFT + right * _WIDTH, _TOP + (1 - high) * _HEIGHT

    parts = []
    for y in upwards:
        at = place(along[0], y)[1]
        parts.append(f'<path d="M{_LEFT:g} {at:.1f}h{_WIDTH:g}" stroke="{_INK}" stroke-opacity=".35"/>')
        parts.append(_text(f"{y:g}", _LEFT - 6, at + 4, "end"))
    parts += [_text(f"{x:g}", place(x, upwards[0])[0], _TOP + _HEIGHT + 18, "middle") for x in along]
    parts.append(_text(across, _LEFT + _WIDTH / 2, _TOP + _HEIGHT + 38, "middle"))
    for number, (name, points) in enumerate(drawn.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(points) < 60:
            dots = (place(*point) for point in points)
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in dots]
        parts.append(_text(name, _LEFT + _WIDTH + 16, _TOP + 12 + 18 * number, "start", colour))
    wide, tall = _LEFT + _WIDTH + 200, _TOP + _HEIGHT + _BELOW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{_escaped(up)}" width="{wide:g}" '
        f'height="{tall:g}" viewBox="0 0 {wide:g} {tall:g}" font-family="sans-serif" font-size="12" fill="{_INK}">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def ticks(low: float, high: float) -> list[float]:
    """Two to eight round numbers, evenly spaced, that reach from ``low`` or below to ``high`` or above."""
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high), 1e-20):  # one value, up to rounding
        span = abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span / 5)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _thinned(points: Points) -> list[tuple[float, float]]:
    size = -(-len(points) // _MOST)
    groups = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _text(content: str, x: float, y: float, anchor: str, colour: str = _INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{_escaped(content)}</text>'


def _escaped(text: str) -> str:
    legal = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return legal.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
