"""What a study of invariance found: curves of mAP over strengths, and the area under each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resight.evaluation.plot import Panel, Series, markdown, panels, unusual
from resight.evaluation.study_files import write_study
from resight.robustness.transformations import UNCHANGED


@dataclass(frozen=True)
class Measured:
    """One system on one set, its queries changed alike; strength 0 of ``unchanged`` for as they are.

    system: a recipe, and how its queries are looked at. unit: of the strength. milliseconds: median a query, of
        describing and searching.
    """

    set: str
    system: str
    transformation: str
    unit: str
    strength: float
    mean_average_precision: float
    milliseconds: float


@dataclass(frozen=True)
class Area:
    """Under one curve, from 0 to its greatest strength; see ``relative_area``. None where mAP is 0 without a change."""

    set: str
    system: str
    transformation: str
    unit: str
    most: float
    area: float | None


def relative_area(strengths: Sequence[float], scores: Sequence[float]) -> float | None:
    """∫ m(s) / m(s₀) ds over [s₀, s_K] by trapezoids, over s_K − s₀, of K + 1 ascending strengths and scores at them.

    1 where nothing is lost and 0 where all is at once; above 1 where the change helps. None where m(s₀) is 0.
    """
    s, m = np.asarray(strengths, float), np.asarray(scores, float)
    if s.shape != m.shape or len(s) < 2 or (np.diff(s) <= 0).any():
        raise ValueError("a curve has as many scores as strengths, two at least, and the strengths ascend")
    return float(np.trapezoid(m, s) / (m[0] * (s[-1] - s[0]))) if m[0] > 0 else None


@dataclass(frozen=True)
class Invariance:
    """Every figure, and all they depend on."""

    protocol: Mapping[str, Any]
    results: tuple[Measured, ...]

    @property
    def curves(self) -> dict[tuple[str, str, str], tuple[Measured, ...]]:
        """By transformation, set and system the points of a curve, as it is first; in the order they were measured."""
        first = {(r.set, r.system): r for r in self.results if r.transformation == UNCHANGED.name}
        found: dict[tuple[str, str, str], list[Measured]] = {}
        for r in self.results:
            if r.transformation != UNCHANGED.name:
                found.setdefault((r.transformation, r.set, r.system), [first[r.set, r.system]]).append(r)
        names = list(dict.fromkeys(r.transformation for r in self.results))
        return {key: tuple(found[key]) for key in sorted(found, key=lambda key: names.index(key[0]))}

    @property
    def areas(self) -> tuple[Area, ...]:
        """Under each of the curves."""
        return tuple(
            Area(on, system, name, points[-1].unit, points[-1].strength, relative_area(*_along(points)))
            for (name, on, system), points in self.curves.items()
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes a set's figures worth less."""
        return unusual(self.protocol["sets"])

    def table(self) -> str:
        """Markdown: the area under each curve in per cent, a row for each transformation, a column for each system.

        Before them mAP as it is, in per cent, and the milliseconds that a query takes.
        """
        systems = list(dict.fromkeys((r.set, r.system) for r in self.results))
        plain = {(r.set, r.system): r for r in self.results if r.transformation == UNCHANGED.name}
        area = {(a.transformation, a.set, a.system): a for a in self.areas}
        names = dict.fromkeys((a.transformation, f"{a.most:g} {a.unit}") for a in self.areas)
        rows = [
            ("mAP, unchanged", "", *(f"{100 * plain[s].mean_average_precision:.1f}" for s in systems)),
            ("ms a query", "", *(f"{plain[s].milliseconds:.0f}" for s in systems)),
        ]
        for name, most in names:
            own = (area[name, *s].area for s in systems)
            rows.append((f"area, {name}", most, *("–" if a is None else f"{100 * a:.0f}" for a in own)))
        one = len({on for on, _ in systems}) == 1
        head = ("", "up to", *(system if one else f"{on}: {system}" for on, system in systems))
        return markdown((head, *rows))

    def figures(self) -> str:
        """Markdown: mAP in per cent at every strength, a row for each, a column for each system."""
        systems = list(dict.fromkeys((r.set, r.system) for r in self.results))
        score = {(r.transformation, r.strength, r.set, r.system): r.mean_average_precision for r in self.results}
        lines = list(dict.fromkeys((r.transformation, r.strength, r.unit) for r in self.results))
        rows = [
            (name, f"{strength:g} {unit}".strip(), *(f"{100 * score[name, strength, *s]:.1f}" for s in systems))
            for name, strength, unit in lines
        ]
        return markdown((("transformation", "strength", *(f"{on}: {system}" for on, system in systems)), *rows))

    def plot(self) -> str:
        """SVG: a panel for each transformation, mAP over strength, a colour for each system on each set."""
        drawn: dict[str, list[tuple[str, tuple[Measured, ...]]]] = {}
        for (name, on, system), points in self.curves.items():
            drawn.setdefault(name, []).append((f"{on}, {system}", points))
        shown = []
        for name, curves in drawn.items():
            series = tuple(
                Series(called, number, False, tuple((p.strength, p.mean_average_precision) for p in points))
                for number, (called, points) in enumerate(curves)
            )
            points = curves[0][1]
            ticks = tuple((p.strength, f"{p.strength:g}") for p in points)
            shown.append(Panel(f"{name}: {points[-1].unit}", ticks, series))
        return panels(shown, up="mAP, %")

    def write(self, into: Path) -> None:
        """Write table.md, results.csv, areas.csv, results.json and plot.svg into a folder."""
        write_study(
            into,
            "invariance",
            {"results": (Measured, self.results), "areas": (Area, self.areas)},
            table=f"{self.table()}\n\n{self.figures()}",
            plots={"plot": self.plot()},
            protocol=self.protocol,
            warnings=self.warnings,
        )


def _along(points: Sequence[Measured]) -> tuple[list[float], list[float]]:
    return [p.strength for p in points], [p.mean_average_precision for p in points]
