"""A report: figures with the protocol they were measured by, what they cost, and each query's outcome."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from resight.evaluation.conditions import Costs, Protocol
from resight.evaluation.figures import Figures
from resight.evaluation.table import acceptance_table, align, cost_lines, protocol_lines, ranking_table

Verdict = Literal["positive", "wrong", "junk"]

_LEAK = 0.01  # share of the photos from which on the figures are distrusted


@dataclass(frozen=True)
class Result:
    """One entry of a ranking. Junk keeps its place here, although the figures are computed without it."""

    path: str
    score: float
    accepted: bool
    verdict: Verdict
    inliers: int | None


@dataclass(frozen=True)
class Row:
    """One query's outcome.

    average_precision: None where the query has no positives. first_positive: 1-based rank, junk removed.
    retrieved: positives in the ranking, fewer than ``positives`` where some could not be indexed.
    accepted, accepted_right: entries accepted as matches, and those of them that are positive, junk removed.
    results: the first of the ranking, without the query itself.
    """

    query: str
    box: tuple[float, float, float, float] | None
    subset: str | None
    positives: int
    retrieved: int
    average_precision: float | None
    first_positive: int | None
    accepted: int
    accepted_right: int
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Report:
    """Figures of the whole set and of each subset, their protocol, costs, and rows in the order of the
    queries.

    root: the folder that relative paths are relative to. groups: image path → object it shows, for reading
        along.
    not_indexed: database image → reason; these count as not retrieved.
    """

    root: str
    protocol: Protocol
    figures: Figures
    subsets: Mapping[str, Figures]
    costs: Costs
    not_indexed: Mapping[str, str]
    rows: tuple[Row, ...]
    groups: Mapping[str, str]

    def to_json(self) -> str:
        """The report as JSON; keys in a fixed order; of the same run twice, only ``costs`` differs."""
        shape = {"format": "resight-report", "version": 1, **dataclasses.asdict(self)}
        shape["costs"]["milliseconds_per_image"] = self.costs.milliseconds_per_image
        return json.dumps(shape, ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def table(self) -> str:
        """The report as aligned plain text for a terminal: figures, acceptance, protocol, costs."""
        lines = self.lines
        blocks = (
            align(ranking_table(lines)),
            align(acceptance_table(lines)),
            align(protocol_lines(self.protocol, len(self.not_indexed)), numbers=False),
            align(cost_lines(self.costs), numbers=False),
        )
        return "\n\n".join(blocks) + "\n"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the figures are not to be trusted, a sentence each."""
        return tuple(
            f"the recipe's {part} was fitted on {100 * share:.0f} % of these photos: its figures are too good"
            for part, share in self.protocol.fitted_share.items()
            if share >= _LEAK
        )

    @property
    def lines(self) -> tuple[tuple[str, Figures], ...]:
        """Name and figures of the whole set, then of each subset."""
        return (("all", self.figures), *self.subsets.items())
