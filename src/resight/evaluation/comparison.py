"""What comparing reports found, as JSON and as a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resight.evaluation.conditions import Protocol
from resight.evaluation.kept_report import MEASURES
from resight.evaluation.table import Table, align


@dataclass(frozen=True)
class Difference:
    """One figure of one report less that of the first, in the figure's own unit.

    part: "all" or a subset. queries: that it is a mean of. low, high: bootstrap interval. p_sign: of the bootstrap.
    p: of the permutation test. adjusted: p for as many reports as are compared with the first (Holm).
    differs: whether it is called a difference: the interval excludes 0, and the permutation test agrees.
    """

    figure: str
    part: str
    queries: int
    first: float
    other: float
    difference: float
    low: float
    high: float
    p_sign: float
    p: float
    adjusted: float
    differs: bool


@dataclass(frozen=True)
class Change:
    """A query whose average precision changed, and where its first positive was and is."""

    query: str
    box: tuple[float, float, float, float] | None
    subset: str | None
    first: float
    other: float
    first_positive: int | None
    other_positive: int | None


@dataclass(frozen=True)
class Compared:
    """One report beside the first. better, worse: queries of higher and of lower average precision."""

    name: str
    differences: tuple[Difference, ...]
    better: int
    worse: int
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Comparison:
    """Reports beside the first. protocol: of the first. notes: what else differs between the reports."""

    first: str
    protocol: Protocol
    level: float
    resamples: int
    seed: int
    others: tuple[Compared, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Keys in a fixed order; the same reports, resamples and seed give the same text."""
        shape: dict[str, Any] = {"format": "resight-comparison", "version": 1, **asdict(self)}
        return json.dumps(shape, ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def table(self) -> str:
        """Aligned plain text: a block for each report; per cent where the figures are fractions."""
        blocks = []
        for other in self.others:
            lines = [f"{other.name} against {self.first}", align(self._rows(other))]
            equal = sum(d.queries for d in other.differences if (d.figure, d.part) == ("mAP", "all"))
            equal -= other.better + other.worse
            lines.append(f"queries: {other.better} better, {other.worse} worse, {equal} equal in average precision")
            if other.changes:
                lines.append(align(_changes(other.changes)))
            blocks.append("\n\n".join(lines))
        per_cent = f"{100 * self.level:g} %"
        correction = " corrected for the number of reports (Holm)," if len(self.others) > 1 else ""
        blocks.append(
            f"A difference is called one (*) where its {per_cent} interval excludes 0 and the permutation test,"
            f"{correction} agrees.\nPaired over queries; BCa bootstrap and permutation, {self.resamples:,} resamples "
            f"each, seed {self.seed}. Figures are not corrected for their own number."
        )
        p = self.protocol
        blocks.append(f"{p.name}, ground truth {p.revision[:12]}, {p.queries} queries, AP {p.average_precision}")
        return "\n\n".join(blocks) + "\n"

    def _rows(self, other: Compared) -> Table:
        several = len(self.others) > 1
        rows = [("", "queries", "first", "other", "difference", "interval", "p sign", "p perm.", "p Holm", "")]
        for d in other.differences:
            unit = 100 if MEASURES[d.figure].percent else 1
            form = ".2f" if unit == 100 else ".3f"
            rows.append(
                (
                    d.figure if d.part == "all" else f"{d.figure}, {d.part}",
                    str(d.queries),
                    f"{unit * d.first:{form}}",
                    f"{unit * d.other:{form}}",
                    f"{unit * d.difference:+{form}}",
                    f"[{unit * d.low:+{form}}, {unit * d.high:+{form}}]",
                    f"{d.p_sign:.2g}",
                    f"{d.p:.2g}",
                    f"{d.adjusted:.2g}",
                    "*" if d.differs else "",
                )
            )
        return tuple(row if several else (*row[:8], row[9]) for row in rows)


def _changes(changes: Sequence[Change]) -> Table:
    rows: list[tuple[str, ...]] = [("AP", "first", "other", "first match", "now", "query")]
    for c in changes:
        subset = "" if c.subset is None else f" ({c.subset})"
        ranks = ("–" if rank is None else str(rank) for rank in (c.first_positive, c.other_positive))
        aps = (f"{100 * (c.other - c.first):+.1f}", f"{100 * c.first:.1f}", f"{100 * c.other:.1f}")
        rows.append((*aps, *ranks, c.query + subset))
    return tuple(rows)
