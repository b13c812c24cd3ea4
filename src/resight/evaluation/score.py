"""Somebody else's rankings, judged by the protocol of a labelled set."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from resight.evaluation.acceptance import Acceptance, Outcome
from resight.evaluation.conditions import Protocol
from resight.evaluation.exchange import Rankings
from resight.evaluation.figures import Figures, figures
from resight.evaluation.forms import Ranked
from resight.evaluation.judge import row_of, verdict
from resight.evaluation.labelled import LabelledSet, Query
from resight.evaluation.metrics import check_kind, positive_ranks
from resight.evaluation.protocol import by_subset, conditions
from resight.evaluation.report import Result, Row
from resight.evaluation.table import Table, align, protocol_lines, ranking_table

_UNKNOWN = Acceptance(**{field.name: None for field in fields(Acceptance)})  # a file does not tell what it accepts


@dataclass(frozen=True)
class Scored:
    """Figures of rankings from a file, in the parts of a `Report` that they have; `resight compare` reads both.

    missing: queries of the set without a ranking, which score 0. strangers: queries of the file that the set has not.
    repeats: results given again, which use up a rank and score nothing.
    """

    root: str
    protocol: Protocol
    figures: Figures
    subsets: Mapping[str, Figures]
    rows: tuple[Row, ...]
    groups: Mapping[str, str]
    missing: tuple[str, ...]
    strangers: tuple[str, ...]
    repeats: int

    def to_json(self) -> str:
        """As a report's, without what indexing and searching took; keys in a fixed order."""
        shape = {"format": "resight-report", "version": 1, **asdict(self), "not_indexed": {}, "costs": None}
        return json.dumps(shape, ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def table(self) -> str:
        """Aligned plain text: figures, then what they depend on."""
        unknown = {"query images", "not indexed", "versions"}
        lines: Table = (
            *(line for line in protocol_lines(self.protocol, 0) if line[0] not in unknown),
            *([("missing", f"{len(self.missing)} queries, which score 0")] if self.missing else []),
            *([("repeats", f"{self.repeats}, which use up a rank")] if self.repeats else []),
        )
        ranking = align(ranking_table((("all", self.figures), *self.subsets.items())))
        return f"{ranking}\n\n{align(lines, numbers=False)}\n"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the figures should know, a sentence each."""
        found = []
        if self.missing:
            found.append(f"{len(self.missing)} queries have no ranking and score 0, such as {self.missing[0]}")
        if self.strangers:
            found.append(
                f"{len(self.strangers)} queries are not in the set and count nothing, such as {self.strangers[0]}"
            )
        return tuple(found)


def score(labelled: LabelledSet, rankings: Rankings, *, ap: str | None = None, top: int = 10) -> Scored:
    """The figures of rankings.

    ap: kind of average precision; None for the set's own. top: results kept in each row.
    Junk and the query itself, unless it keeps itself, are removed; repeats use up a rank; a query without a ranking
    scores 0. Boxes, and what the lists accept as a match, play no part. Raises ResightError for an unknown kind.
    """
    kind = ap or labelled.average_precision
    check_kind(kind)
    places = {path: place for place, path in enumerate(labelled.database)}
    lists = [rankings.found.get((query.path, query.box)) for query in labelled.queries]
    outcomes = [_judge(query, ranked, places) for query, ranked in zip(labelled.queries, lists, strict=True)]

    def figured(part: list[Outcome]) -> Figures:
        return replace(figures(part, kind, in_fours=labelled.in_fours), acceptance=_UNKNOWN)

    return Scored(
        root=str(labelled.root),
        protocol=_protocol(labelled, rankings, kind),
        figures=figured(outcomes),
        subsets=by_subset(labelled, outcomes, figured),
        rows=tuple(
            _row(query, outcome, ranked, labelled.database, kind, top)
            for query, outcome, ranked in zip(labelled.queries, outcomes, lists, strict=True)
        ),
        groups=labelled.groups,
        missing=tuple(dict.fromkeys(q.path for q, r in zip(labelled.queries, lists, strict=True) if r is None)),
        strangers=rankings.strangers,
        repeats=sum(len(r.places) - len(np.unique(r.places)) for r in rankings.found.values()),
    )


def _judge(query: Query, ranked: Ranked | None, places: Mapping[str, int]) -> Outcome:
    if ranked is None:
        return Outcome(np.empty(0, np.int64), len(query.positives), 0)
    ranks = positive_ranks(
        ranked.places,
        [places[path] for path in query.positives],
        [places[path] for path in query.removed if path in places],
        allow_repeats=True,
    )
    return Outcome(ranks, len(query.positives), 0)


def _row(query: Query, outcome: Outcome, ranked: Ranked | None, database: tuple[str, ...], kind: str, top: int) -> Row:
    results: list[Result] = []
    for rank, place in enumerate([] if ranked is None else ranked.places[: top + 1].tolist()):
        path = database[place]
        if path == query.path and not query.keeps_itself:
            continue
        # Where a list has no scores, its order is shown by that of 1/rank.
        similarity = 1 / (rank + 1) if ranked is None or ranked.scores is None else float(ranked.scores[rank])
        again = any(path == result.path for result in results)
        found = "wrong" if again and path in query.positives else verdict(query, path)
        results.append(Result(path, similarity, False, found, None))
    return row_of(query, outcome, results[:top], kind)


def _protocol(labelled: LabelledSet, rankings: Rankings, kind: str) -> Protocol:
    scored = any(ranked.scores is not None for ranked in rankings.found.values())
    return conditions(
        labelled,
        kind,
        stored=0,
        ties="equal scores are ordered by image id" if scored else "as the file has them",
        recipe=rankings.file.name,
        fingerprint=rankings.sha256,
        fitted_on={},
        fitted_share={},
    )
