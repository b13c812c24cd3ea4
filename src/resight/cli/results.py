"""The forms a search's results take on standard output, each written as the answers come."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeAlias

from resight.cli import output

if TYPE_CHECKING:
    from resight.search.collection import Collection
    from resight.search.page import QueryResult
    from resight.search.ranking import Evidence, Ranking


@dataclass(frozen=True)
class Unanswered:
    """A query that could not be answered, and why."""

    query: str
    reason: str


FACTS = ("rank", "id", "path", "score", "accepted", "inliers", "matches")

Outcome: TypeAlias = "QueryResult | Unanswered"


def table(collection: "Collection", outcomes: Iterable[Outcome], everything: bool) -> None:
    """For people: a heading a query, then its results in columns."""
    for outcome in outcomes:
        if isinstance(outcome, Unanswered):
            continue
        ranking, timing = outcome.ranking, outcome.timing
        shown = _shown(outcome, everything)
        measure = "probability" if ranking.calibrated else "similarity"
        took = f"{timing.describe + timing.filter + timing.verify:.2f} s"
        output.line(f"{output.printable(outcome.query)}: {_found(ranking)} among {len(collection):,} images ({took})")
        if not ranking.accepted and len(ranking) and not everything:
            output.line(
                f"  the best has {measure} {ranking.scores[0]:.3f}, a match needs {ranking.threshold:.3f}; "
                "--all shows it"
            )
        if ranking.remark is not None:
            output.line(f"  suspect: {ranking.remark}")
        if shown:
            example = ["example"] if outcome.further else []
            heading = ("rank", "id", measure, "match", "inliers", "box", *example, "path")
            output.columns([heading, *(_cells(collection, outcome, index) for index in shown)], left=[3, 6])
        sys.stdout.flush()


def _found(ranking: "Ranking") -> str:
    if not ranking.accepted:
        return "nothing found"
    if not isfinite(ranking.threshold):
        return f"the {len(ranking):,} most similar (this recipe cannot tell which are matches)"
    return "1 match" if ranking.accepted == 1 else f"{ranking.accepted:,} matches"


def _cells(collection: "Collection", outcome: "QueryResult", index: int) -> tuple[str, ...]:
    ranking = outcome.ranking
    evidence, image_id = ranking.evidence[index], int(ranking.ids[index])
    return (
        str(index + 1),
        f"id:{image_id}",
        f"{ranking.scores[index]:.3f}",
        "" if not isfinite(ranking.threshold) else "yes" if index < ranking.accepted else "no",
        "" if evidence is None else str(evidence.inliers),
        "" if evidence is None or evidence.box is None else ",".join(f"{v:.0f}" for v in evidence.box),
        *([_example(outcome, evidence)] if outcome.further else []),
        output.printable(collection.entry(image_id).origin),
    )


def _example(outcome: "QueryResult", evidence: "Evidence | None") -> str:
    return "" if evidence is None else output.printable(outcome.examples[evidence.example].query)


def paths(collection: "Collection", outcomes: Iterable[Outcome], everything: bool, end: str) -> None:
    """For pipes: the paths alone, each followed by `end`, a path once a query."""
    for outcome in outcomes:
        if isinstance(outcome, Unanswered):
            continue
        for index in _shown(outcome, everything):
            sys.stdout.write(collection.entry(int(outcome.ranking.ids[index])).origin + end)
        sys.stdout.flush()


def csv(collection: "Collection", outcomes: Iterable[Outcome], everything: bool) -> None:
    """One row a result; box columns in the result's pixels, empty where there is no evidence."""
    output.csv_rows(chain([("query", *FACTS, "x1", "y1", "x2", "y2")], _rows(collection, outcomes, everything)))


def _rows(collection: "Collection", outcomes: Iterable[Outcome], everything: bool) -> Iterator[list[Any]]:
    for outcome in outcomes:
        if isinstance(outcome, Unanswered):
            continue
        for index in _shown(outcome, everything):
            r = _result(collection, outcome, index)
            yield [outcome.query, *(r[key] for key in FACTS), *(r["box"] or [None] * 4)]


def json(collection: "Collection", outcomes: Iterable[Outcome], everything: bool) -> None:
    """One object: ``{"queries": [{"query", "box", "found", "results", …}, …]}``. Keys are only ever added.

    A result: rank (from 1), id, path, score, accepted, inliers, matches, agreement of colours (0 to 1), homography
    (3×3, query pixels → result pixels), outline (4 corners) and box (x1, y1, x2, y2) in the result's pixels; null where
    it was not verified. others: the same from inliers to box of further instances in the result.
    threshold: the least score of a match, or null with a recipe that cannot tell matches.
    filter_rank: of the match that the filter, before verification, ranks first, from 1, or null, as also where the
    query is an image of the collection; suspect: whether it is so low that the two rankings disagree.
    A query of several examples also has ``examples``: query, box and weight of each; and its results ``example``:
    the index there of the one that homography and outline are about, null where they were not verified.
    A query that could not be answered has ``error`` with the reason, and no results.
    """
    separator = ""
    sys.stdout.write('{"queries": [')
    for outcome in outcomes:
        sys.stdout.write(f"{separator}\n{output.as_json(_answer(collection, outcome, everything))}")
        separator = ","
    output.line("\n]}")


def _answer(collection: "Collection", outcome: Outcome, everything: bool) -> dict[str, Any]:
    if isinstance(outcome, Unanswered):
        return {"query": outcome.query, "box": None, "found": False, "results": [], "error": outcome.reason}
    ranking = outcome.ranking
    return {
        "query": outcome.query,
        "box": outcome.box,
        "found": ranking.accepted > 0,
        "calibrated": ranking.calibrated,
        "threshold": ranking.threshold if isfinite(ranking.threshold) else None,
        "filter_rank": ranking.place,
        "suspect": ranking.suspect,
        **_examples(outcome),
        "results": [_result(collection, outcome, index) for index in _shown(outcome, everything)],
        "timing": asdict(outcome.timing),
    }


def _examples(outcome: "QueryResult") -> dict[str, Any]:
    if not outcome.further:
        return {}
    return {"examples": [{"query": e.query, "box": e.box, "weight": e.weight} for e in outcome.examples]}


def _result(collection: "Collection", outcome: "QueryResult", index: int) -> dict[str, Any]:
    ranking = outcome.ranking
    evidence, image_id = ranking.evidence[index], int(ranking.ids[index])
    facts: dict[str, Any] = {
        "rank": index + 1,
        "id": image_id,
        "path": collection.entry(image_id).origin,
        "score": round(float(ranking.scores[index]), 6),
        "accepted": index < ranking.accepted,
    }
    if outcome.further:
        facts["example"] = None if evidence is None else evidence.example
    if evidence is None:
        return facts | dict.fromkeys(("inliers", "matches", "agreement", "homography", "outline", "box", "others"))
    return facts | _instance(evidence) | {"others": [_instance(other) for other in evidence.others]}


def _instance(evidence: "Evidence") -> dict[str, Any]:
    return {
        "inliers": evidence.inliers,
        "matches": evidence.matches,
        "agreement": round(evidence.agreement, 3),
        "homography": None if evidence.homography is None else evidence.homography.tolist(),
        "outline": None
        if evidence.outline is None
        else [[round(float(v), 2) for v in corner] for corner in evidence.outline],
        "box": None if evidence.box is None else [round(float(v), 2) for v in evidence.box],
    }


def _shown(outcome: "QueryResult", everything: bool) -> range:
    return range(len(outcome.ranking) if everything else outcome.ranking.accepted)
