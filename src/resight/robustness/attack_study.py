"""What a study of attacks found: figures, their table and plots, and the pictures of some queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.evaluation.plot import Series, markdown, plot
from resight.evaluation.study_files import write_study
from resight.evaluation.table import Table

CLEAN = "clean"
"""In place of an attack, where there is none."""


@dataclass(frozen=True)
class AttackResult:
    """The queries of a set under one attack, against one recipe and defence; shares in [0, 1].

    epsilon: by how much a value may change, of 255; 0 where nothing was. mean_average_precision: in [0, 1].
    similarity: mean cosine of what was searched with and the clean query without the defence. changed: share of queries
    whose first result is another than by the same search of the clean query. hit: share whose first result is the
    target; None without one. asked: queries that the attacker put, a query, on average; None where none are needed.
    suspect, undecided: shares that are flagged, and that have no match that could be; None without verification.
    """

    set: str
    recipe: str
    defence: str
    attack: str
    epsilon: int
    mean_average_precision: float
    similarity: float
    changed: float
    hit: float | None = None
    asked: float | None = None
    suspect: float | None = None
    undecided: float | None = None


@dataclass(frozen=True, eq=False)
class Shown:
    """One query as it was attacked, without a defence. picture: H×W×3 uint8. result: path of what is found first."""

    query: str
    attack: str
    epsilon: int
    picture: NDArray[np.uint8]
    result: str


@dataclass(frozen=True, eq=False)
class AttackStudy:
    """Figures, with all that they depend on, and pictures of some queries, each clean first."""

    protocol: Mapping[str, Any]
    results: tuple[AttackResult, ...]
    shown: tuple[Shown, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the figures should know."""
        found: tuple[str, ...] = tuple(self.protocol["warnings"])
        return found

    @property
    def grids(self) -> tuple[Table, ...]:
        """mAP in per cent, a row a defence, a column an attack; then what verification flags, if anything."""
        flagged = tuple(r for r in self.results if r.suspect is not None)
        found = [self._grid(self.results, "defence", lambda r: r.mean_average_precision)]
        if flagged:
            found.append(self._grid(flagged, "flagged as suspect", lambda r: r.suspect))
        return tuple(found)

    def table(self) -> str:
        """``grids`` as Markdown."""
        return "\n\n".join(map(markdown, self.grids))

    def _grid(self, results: tuple[AttackResult, ...], what: str, figure: Any) -> Table:
        columns = list(dict.fromkeys((r.attack, r.epsilon) for r in results))
        rows = list(dict.fromkeys((r.set, r.recipe, r.defence) for r in results))
        cells = {(r.set, r.recipe, r.defence, r.attack, r.epsilon): f"{100 * figure(r):.1f}" for r in results}
        head = ("set", "recipe", what, *(attack if not e else f"{attack} {e}/255" for attack, e in columns))
        return head, *((*row, *(cells.get((*row, *column), "–") for column in columns)) for row in rows)

    def plots(self) -> dict[str, str]:
        """For each attack SVG of mAP over ε, from 0 where nothing is altered; a colour for each defence and recipe."""
        drawn = {}
        for attack in dict.fromkeys(r.attack for r in self.results if r.attack != CLEAN):
            lines: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
            for r in self.results:
                if r.attack in (attack, CLEAN):
                    point = float(r.epsilon), r.mean_average_precision
                    lines.setdefault((r.set, r.recipe, r.defence), []).append(point)
            varied = [len({line[i] for line in lines}) > 1 for i in range(3)]
            series = [
                Series(", ".join(part for part, told in zip(line, varied, strict=True) if told) or line[2], n, False, p)
                for n, (line, p) in enumerate((line, tuple(points)) for line, points in lines.items())
            ]
            ticks = [(float(e), f"{e}/255") for e in sorted({r.epsilon for r in self.results})]
            drawn[attack] = plot(series, ticks, across=f"ε, {attack}", up="mAP, %", joined=True)
        return drawn

    def write(self, into: Path) -> None:
        """Write table.md, results.csv, results.json, a plot an attack and report.html into a folder."""
        from resight.robustness.attack_page import write_attack_page

        write_study(
            into,
            "attacks",
            {"results": (AttackResult, self.results)},
            table=self.table(),
            plots={f"plot-{attack}": drawing for attack, drawing in self.plots().items()},
            protocol=self.protocol,
            warnings=self.warnings,
        )
        write_attack_page(self, into / "report.html")
