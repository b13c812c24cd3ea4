"""What a study of classes that come in steps found: how well old and new ones are found, re-indexed and not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resight.evaluation.plot import Series, markdown, plot
from resight.evaluation.study_files import write_study

By = Literal["new", "old"]


@dataclass(frozen=True)
class StepResult:
    """mAP in [0, 1] after a step, over a database of all classes so far.

    arm: how the network went on learning. queries, database: by which network these are described, "new" of this step
    or "old" of the one before; "new" queries of an "old" database are those of a search without re-indexing.
    step: from 0, after which nothing is old. classes: so far. old, new: of queries for classes of the steps before and
    of this one; every: of all of them.
    """

    set: str
    arm: str
    queries: By
    database: By
    step: int
    classes: int
    old: float | None
    new: float
    every: float


@dataclass(frozen=True)
class IncrementalStudy:
    """Every figure, and all they depend on."""

    protocol: Mapping[str, Any]
    results: tuple[StepResult, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the figures should know."""
        found: tuple[str, ...] = tuple(self.protocol["warnings"])
        return found

    @property
    def _lines(self) -> dict[tuple[str, By, By], list[StepResult]]:
        lines: dict[tuple[str, By, By], list[StepResult]] = {}
        for r in self.results:
            lines.setdefault((r.arm, r.queries, r.database), []).append(r)
        return lines

    def table(self) -> str:
        """Markdown: a row an arm and database, mAP in per cent of old and of new classes after each step."""
        steps = sorted({r.step for r in self.results})
        head = (
            "learning",
            "queries",
            "database",
            *(f"step {s}: old / new" if s else "step 0" for s in steps),
            "all, at the end",
        )
        rows = [
            (
                *by,
                *(f"{100 * r.new:.1f}" if r.old is None else f"{100 * r.old:.1f} / {100 * r.new:.1f}" for r in line),
                f"{100 * line[-1].every:.1f}",
            )
            for by, line in self._lines.items()
        ]
        return markdown((head, *rows))

    def plot(self) -> str:
        """SVG: mAP of all classes over the steps, of new queries; a colour an arm, broken lines of an old database."""
        arms = list(dict.fromkeys(r.arm for r in self.results))
        series = [
            Series(
                arm if database == "new" else f"{arm}, old database",
                arms.index(arm),
                database == "old",
                tuple((float(r.step), r.every) for r in line),
            )
            for (arm, queries, database), line in self._lines.items()
            if queries == "new"
        ]
        ticks = [(float(step), str(step)) for step in sorted({r.step for r in self.results})]
        return plot(series, ticks, across="step", up="mAP of all classes, %", joined=True)

    def write(self, into: Path) -> None:
        """Write table.md, results.csv, results.json and plot.svg into a folder."""
        write_study(
            into,
            "incremental",
            {"results": (StepResult, self.results)},
            table=self.table(),
            plots={"plot": self.plot()},
            protocol=self.protocol,
            warnings=self.warnings,
        )
