"""A recipe's rankings for a labelled set, to hand to others."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resight.evaluation.exchange import Question, questions
from resight.evaluation.forms import Ranked
from resight.evaluation.labelled import LabelledSet, with_distractors
from resight.evaluation.protocol import ask, ids_of, opened
from resight.recipes.recipe import Recipe

if TYPE_CHECKING:
    from resight.search.collection import Progress


def rank(
    labelled: LabelledSet,
    recipe: Recipe | str | Path,
    *,
    distractors: Iterable[str | Path] = (),
    collection: str | Path | None = None,
    top: int | None = None,
    workers: int | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> tuple[LabelledSet, dict[Question, Ranked]]:
    """The set, with its distractors, and the ranking of each of its `questions`, as `evaluate` judges it.

    A query that is in the database is left out of its own ranking, unless it keeps itself; junk stays. An image that
    could not be indexed is not ranked. top: results kept of each, which bounds memory; None for all. The other
    arguments, and what is raised, are as of `evaluate`.
    """
    from resight.search.collection import Progress

    labelled = with_distractors(labelled, distractors)
    found: dict[Question, Ranked] = {}
    with opened(recipe, collection) as index:
        ids_of(index, labelled)  # refuse a collection of other images before anything is added to it
        index.add([labelled.locate(path) for path in labelled.database], workers=workers, progress=progress)
        ids = ids_of(index, labelled)
        places = {ids[path]: place for place, path in enumerate(labelled.database) if path in ids}
        queries = {(query.path, query.box): query for query in reversed(labelled.queries)}
        for question in questions(labelled):
            query = queries[question]
            ranking, _ = ask(index, labelled, query, ids)
            ranked = np.array([places[image_id] for image_id in ranking.ids.tolist()], np.int64)
            scores = ranking.scores.astype(np.float64)
            if not query.keeps_itself and query.path in ids:
                others = ranking.ids != ids[query.path]
                ranked, scores = ranked[others], scores[others]
            found[question] = Ranked(ranked[:top], scores[:top])
            if progress is not None:
                progress(Progress("searching", len(found), len(queries)))
    return labelled, found
