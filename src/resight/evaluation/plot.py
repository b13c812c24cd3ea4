"""What a study found, as a Markdown table and as a plot: one SVG file, readable on light and dark pages alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

from resight.evaluation.study_files import write_study

Kind = Literal["pooling", "dimensions", "layers", "depth", "regions", "training-set"]

# What is compared, as the heading of a table.
_COMPARED: Mapping[Kind, str] = {
    "pooling": "pooling",
    "dimensions": "recipe",
    "layers": "layer",
    "depth": "network",
    "regions": "regions",
    "training-set": "recipe",
}

# Middle tones, which stand out from white and from black; no background is drawn.
_INK = "#7d7d7d"
_COLOURS = ("#2f80c9", "#d5651f", "#1f9d6b", "#c0588f", "#94801a", "#8a6fd1", "#1f97a8", "#c94f4f")
_HEIGHT, _LEFT, _TOP, _LEGEND, _LINE = 300.0, 48.0, 12.0, 200.0, 18.0  # pixels
_LETTER = 7.0  # mean width of a letter of 12 px
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Series:
    """One entry of the legend.

    colour: place in the palette, which begins again after its eighth. dashed: broken line and hollow marks.
    points: (x, y), with y a fraction.
    """

    name: str
    colour: int
    dashed: bool
    points: tuple[tuple[float, float], ...]


def plot(series: Sequence[Series], ticks: Sequence[tuple[float, str]], *, across: str, up: str, joined: bool) -> str:
    """SVG of the series in per cent; lines join the points of each where ``joined``.

    ticks: x and label of each mark of the horizontal axis. across, up: what the axes show.
    Raises ValueError without a tick or a point.
    """
    drawn, wide, tall = _drawn(series, ticks, across, up, joined, [y for one in series for _, y in one.points])
    return _svg(drawn, wide, tall)


@dataclass(frozen=True)
class Panel:
    """One of several plots of the same series. across: what its horizontal axis, with its ticks, shows."""

    across: str
    ticks: tuple[tuple[float, str], ...]
    series: tuple[Series, ...]


def panels(shown: Sequence[Panel], *, up: str, columns: int = 3) -> str:
    """SVG of plots side by side, row by row, with joined points and one vertical axis; the legend is the first's.

    Raises ValueError where one has no tick or no point.
    """
    values = [y for panel in shown for one in panel.series for _, y in one.points]
    parts = [_drawn(p.series, p.ticks, p.across, up, True, values, legend=p is shown[0]) for p in shown]
    step, line = max(wide for _, wide, _ in parts[1:] or parts), max(tall for _, _, tall in parts) + 12
    drawn, rightmost = [], 0.0
    for number, (marks, wide, _) in enumerate(parts):
        row, column = divmod(number, columns)
        # Behind the first of a row, whose legend is as wide as it is.
        left = 0.0 if column == 0 else parts[0][1] + (column - 1) * step
        drawn.append(f'<g transform="translate({left:g} {row * line:g})">' + "\n".join(marks) + "</g>")
        rightmost = max(rightmost, left + wide)
    return _svg(drawn, rightmost, -(-len(parts) // columns) * line)


def _svg(drawn: Sequence[str], wide: float, tall: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{tall:.0f}" '
        f'viewBox="0 0 {wide:.0f} {tall:.0f}" font-family="sans-serif" font-size="12" fill="{_INK}">\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _drawn(
    series: Sequence[Series],
    ticks: Sequence[tuple[float, str]],
    across: str,
    up: str,
    joined: bool,
    values: Sequence[float],
    legend: bool = True,
) -> tuple[list[str], float, float]:
    """Elements of a plot, its width and its height. values: what the vertical axis must hold."""
    if not ticks or not values or not any(one.points for one in series):
        raise ValueError("a plot needs a tick and a point")
    step = next((s for s in _STEPS if max(values) - min(values) <= 6 * s), _STEPS[-1])
    low, high = math.floor(min(values) / step), max(math.ceil(max(values) / step), math.floor(min(values) / step) + 1)
    first, last = min(x for x, _ in ticks), max(x for x, _ in ticks)
    width = max(360.0, 36.0 * len(ticks))
    below = _TOP + _HEIGHT + 0.7 * _LETTER * max(len(label) for _, label in ticks) + 24

    def place(x: float, y: float) -> tuple[float, float]:
        along = (x - first) / (last - first) if last > first else 0.5
        return _LEFT + 12 + along * (width - 24), _TOP + _HEIGHT * (high - y / step) / (high - low)

    drawn = []
    for number in range(low, high + 1):
        at = place(first, number * step)[1]
        drawn.append(f'<path d="M{_LEFT:g} {at:.1f}h{width:g}" stroke="{_INK}" stroke-opacity=".35"/>')
        drawn.append(_text(f"{100 * number * step:g}", _LEFT - 6, at + 4, "end"))
    for x, label in ticks:
        left, foot = place(x, low * step)[0], _TOP + _HEIGHT
        drawn.append(f'<path d="M{left:.1f} {foot:g}v5" stroke="{_INK}"/>')
        drawn.append(_text(label, left + 4, foot + 16, "end", turn=-40))
    drawn.append(_text(across, _LEFT + width / 2, below, "middle"))
    drawn.append(_text(up, 12, _TOP + _HEIGHT / 2, "middle", turn=-90))
    for row, one in enumerate(series):
        drawn += _marks(one, [place(*point) for point in sorted(one.points)], joined)
        if not legend:
            continue
        at = _TOP + 8 + row * _LINE
        start = _LEFT + width + 20
        drawn += _marks(one, [(start, at), (start + 24, at)] if joined else [(start + 12, at)], joined)
        drawn.append(_text(one.name, start + 34, at + 4, "start"))
    if not legend:
        return drawn, _LEFT + width + 24, below + 12
    wide = _LEFT + width + max(_LEGEND, 60 + _LETTER * max(len(one.name) for one in series))
    return drawn, wide, max(below + 12, _TOP + 8 + len(series) * _LINE)


def _marks(one: Series, places: Sequence[tuple[float, float]], joined: bool) -> list[str]:
    colour = _COLOURS[one.colour % len(_COLOURS)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="5 4"' if one.dashed else ""
    drawn = [f'<polyline points="{line}" fill="none" stroke="{colour}"{dashes}/>'] if joined else []
    fill = "none" if one.dashed else colour
    return drawn + [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{fill}" stroke="{colour}"/>' for x, y in places]


def _text(content: str, x: float, y: float, anchor: str, turn: float = 0) -> str:
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    # Set names are whatever a folder is called, also with characters that XML has no way to write.
    legal = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in content)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(legal)}</text>'


@dataclass(frozen=True)
class Result:
    """One descriptor on one set.

    variant: pooling, layer, network, regions or recipe. projection: "none", "pca" or "pca-whitening"; of a training
        set, the re-ranking. dimensions: of a vector, 0 where there is none.
    """

    set: str
    variant: str
    projection: str
    dimensions: int
    mean_average_precision: float


@dataclass(frozen=True)
class Study:
    """What was compared, the figures, and all they depend on. kind: of `resight study`."""

    kind: Kind
    protocol: Mapping[str, Any]
    results: tuple[Result, ...]

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets, in the order they were given."""
        return tuple(dict.fromkeys(result.set for result in self.results))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes a set's figures worth less."""
        return unusual(self.protocol["sets"])

    def table(self) -> str:
        """Markdown: a row for each descriptor, a column for each set; mAP in per cent."""
        lines = list(dict.fromkeys((r.variant, r.projection, r.dimensions) for r in self.results))
        figure = {(r.variant, r.projection, r.dimensions, r.set): r.mean_average_precision for r in self.results}
        rows = [
            (v, p, str(d) if d else "–", *(f"{100 * figure[v, p, d, s]:.1f}" for s in self.sets)) for v, p, d in lines
        ]
        second = "re-ranking" if self.kind == "training-set" else "projection"
        head = (_COMPARED[self.kind], second, "dimensions", *self.sets)
        return markdown((head, *rows))

    def plot(self) -> str:
        """SVG: mAP over what is compared, a colour for each set; hollow marks and broken lines where not whitened.

        Over dimensions only the projections are drawn: the descriptor as it is has but one length.
        """
        scaled = self.kind == "dimensions"
        shown = [r for r in self.results if not scaled or r.projection != "none"]
        if scaled:
            over = {str(length): math.log2(length) for length in sorted({r.dimensions for r in shown})}
        else:
            over = {name: float(place) for place, name in enumerate(dict.fromkeys(r.variant for r in shown))}
        drawn: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for r in shown:
            at = over[str(r.dimensions) if scaled else r.variant]
            drawn.setdefault((r.set, r.projection), []).append((at, r.mean_average_precision))
        whitens = any(r.projection == "pca-whitening" for r in shown)
        grid = self.kind == "training-set"  # a colour for each re-ranking of each set
        series = [
            Series(
                name if projection == "none" and not grid else f"{name}, {projection}",
                number if grid else self.sets.index(name),
                whitens and projection != "pca-whitening",
                tuple(points),
            )
            for number, ((name, projection), points) in enumerate(drawn.items())
        ]
        ticks = [(x, label) for label, x in over.items()]
        return plot(series, ticks, across=self.kind, up="mAP, %", joined=self.kind not in ("pooling", "training-set"))

    def write(self, into: Path) -> None:
        """Write table.md, results.csv, results.json and plot.svg into a folder."""
        write_study(
            into,
            self.kind,
            {"results": (Result, self.results)},
            table=self.table(),
            plots={"plot": self.plot()},
            protocol=self.protocol,
            warnings=self.warnings,
        )


def unusual(sets: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes the figures of sets worth less, by their names and facts."""
    found = []
    for name, facts in sets.items():
        if facts["unread"]:
            found.append(f"{name}: {len(facts['unread'])} of its images cannot be read, counted as not retrieved")
        if facts["fitted_share"]:
            share = 100 * facts["fitted_share"]
            found.append(f"{name}: {share:.3g} % of its photos were learned from, which flatters its figures")
    return tuple(found)


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table, the first row of which is its head."""
    head, *rows = table
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (head, ["---"] * len(head), *rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
