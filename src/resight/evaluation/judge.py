"""One query's ranking against its ground truth."""

from collections.abc import Iterable, Mapping

import numpy as np

from resight.evaluation.acceptance import Outcome
from resight.evaluation.labelled import Query
from resight.evaluation.metrics import average_precision, first_rank, positive_ranks
from resight.evaluation.report import Result, Row, Verdict
from resight.search.ranking import Ranking


def judge(query: Query, ranking: Ranking, ids: Mapping[str, int]) -> Outcome:
    """What the figures need of a ranking, from which its junk is removed first, and the query unless it keeps itself.

    ids: image path → id of the database images that were indexed; a positive without an id is not retrieved.
    """
    removed = _known(ids, query.removed)
    ranks = positive_ranks(ranking.ids, _known(ids, query.positives), removed)
    accepted = ~np.isin(ranking.ids[: ranking.accepted], removed)
    return Outcome(ranks, len(query.positives), int(np.count_nonzero(accepted)))


def row(query: Query, outcome: Outcome, ranking: Ranking, names: Mapping[int, str], *, kind: str, top: int) -> Row:
    """The query's row in the report, with the first ``top`` of its ranking, junk included, itself left out
    unless it keeps itself.

    names: image id → path. kind: of average precision.
    """
    results = []
    for place, image_id in enumerate(ranking.ids[: top + 1].tolist()):
        path, evidence = names[image_id], ranking.evidence[place]
        if path != query.path or query.keeps_itself:
            inliers = None if evidence is None else evidence.inliers
            score, accepted = float(ranking.scores[place]), place < ranking.accepted
            results.append(Result(path, score, accepted, verdict(query, path), inliers))
    return row_of(query, outcome, results[:top], kind)


def row_of(query: Query, outcome: Outcome, results: Iterable[Result], kind: str) -> Row:
    """The query's row with the results that it shows. kind: of average precision."""
    return Row(
        query=query.path,
        box=query.box,
        subset=query.subset,
        positives=outcome.positives,
        retrieved=len(outcome.ranks),
        average_precision=average_precision(outcome.ranks, outcome.positives, kind) if outcome.positives else None,
        first_positive=first_rank(outcome.ranks),
        accepted=outcome.accepted,
        accepted_right=outcome.right,
        results=tuple(results),
    )


def verdict(query: Query, path: str) -> Verdict:
    """What a result of a query is."""
    if path in query.positives:
        return "positive"
    return "junk" if path in query.junk else "wrong"


def _known(ids: Mapping[str, int], paths: Iterable[str]) -> list[int]:
    return [ids[path] for path in paths if path in ids]
