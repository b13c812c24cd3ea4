"""What a study of attacks found: figures, their table and plots, and the pictures of some queries."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.evaluation.plot import Series, markdown, plot

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

    def table(self) -> str:
        """Markdown: mAP in per cent, a row a defence, a column an attack; then what verification flags."""
        flagged = [r for r in self.results if r.suspect is not None]
        tables = [self._grid(self.results, "defence", lambda r: r.mean_average_precision)]
        if flagged:
            tables.append(self._grid(tuple(flagged), "flagged as suspect", lambda r: r.suspect))
        return "\n\n".join(tables)

    def _grid(self, results: tuple[AttackResult, ...], what: str, figure: Any) -> str:
        columns = list(dict.fromkeys((r.attack, r.epsilon) for r in results))
        rows = list(dict.fromkeys((r.set, r.recipe, r.defence) for r in results))
        cells = {(r.set, r.recipe, r.defence, r.attack, r.epsilon): f"{100 * figure(r):.1f}" for r in results}
        head = ("set", "recipe", what, *(attack if not e else f"{attack} {e}/255" for attack, e in columns))
        return markdown((head, *((*row, *(cells.get((*row, *column), "–") for column in columns)) for row in rows)))

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

        into.mkdir(parents=True, exist_ok=True)
        facts = {"study": "attacks", "protocol": self.protocol, "results": [asdict(r) for r in self.results]}
        (into / "results.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        with (into / "results.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(field.name for field in fields(AttackResult))
            writer.writerows(astuple(result) for result in self.results)
        plain = [f"{name}: {value}" for name, value in self.protocol.items() if isinstance(value, str)]
        said = "".join(f"{line}  \n" for line in [*plain, *self.warnings])
        (into / "table.md").write_text(f"{said}\n{self.table()}\n", encoding="utf-8")
        for attack, drawing in self.plots().items():
            (into / f"plot-{attack}.svg").write_text(drawing, encoding="utf-8")
        write_attack_page(self, into / "report.html")
