"""Recognition on a labelled set: which object a query shows, told by what it finds; GAP, as GLDv2 scores it.

Weyand et al., Google Landmarks Dataset v2, CVPR 2020: one label with a confidence for a query, or none; queries that
show no known object count too, as `datasets.recognition` says. Here the database's photos have the labels.
"""

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from resight.errors import GroundTruthError, ResightError
from resight.evaluation.datasets.recognition import Prediction
from resight.evaluation.exchange import lookup, query_names, questions
from resight.evaluation.labelled import LabelledSet, Query, with_distractors
from resight.evaluation.objects import objects
from resight.evaluation.protocol import ask, ids_of, opened
from resight.files import output_file
from resight.recipes.recipe import Recipe

if TYPE_CHECKING:
    from resight.search.collection import Progress
    from resight.search.ranking import Ranking

_COLUMNS = ("query", "label", "confidence")


def solution(labelled: LabelledSet) -> dict[str, frozenset[str]]:
    """Path of each query → the objects that its positives show; none where nothing in the database answers it.

    Raises ResightError where one photo is asked with several boxes.
    """
    query_names(labelled)
    shows = objects(labelled)
    found: dict[str, frozenset[str]] = {}
    for query in labelled.queries:
        labels = frozenset(shows[path] for path in query.positives if path in shows)
        found[query.path] = found.get(query.path, frozenset()) | labels
    return found


def predict(
    labelled: LabelledSet,
    recipe: Recipe | str | Path,
    *,
    votes: int = 1,
    accepted: bool = False,
    distractors: Iterable[str | Path] = (),
    collection: str | Path | None = None,
    workers: int | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> dict[str, Prediction]:
    """Path of each query → the label that its results vote for; those without a vote are left out.

    A query's first ``votes`` results give their scores to the objects that they show, and the label with the largest
    sum, then the one seen first, is predicted with that sum as its confidence. Photos of which no object is known, such
    as distractors, vote for none, which can win. Junk, and the query itself, do not vote; where subsets ask the same,
    what is junk in all of them.
    accepted: only what the recipe accepts as a match votes. The other arguments, and what is raised, are as of
    `evaluate`; ResightError too where one photo is asked with several boxes, and where ``votes`` is not positive.
    """
    from resight.search.collection import Progress

    if votes < 1:
        raise ResightError(f"at least one result has to vote, not {votes}")
    query_names(labelled)
    labelled = with_distractors(labelled, distractors)
    shows = objects(labelled)
    found: dict[str, Prediction] = {}
    with opened(recipe, collection) as index:
        ids_of(index, labelled)  # refuse a collection of other images before anything is added to it
        index.add([labelled.locate(path) for path in labelled.database], workers=workers, progress=progress)
        ids = ids_of(index, labelled)
        labels = {image_id: shows.get(path) for path, image_id in ids.items()}
        asked = {question: list[Query]() for question in questions(labelled)}
        for query in labelled.queries:
            asked[query.path, query.box].append(query)
        for done, ((path, _), same) in enumerate(asked.items(), 1):
            ranking, _ = ask(index, labelled, same[0], ids)
            removed = {ids[each] for each in frozenset.intersection(*(q.removed for q in same)) if each in ids}
            vote = _vote(ranking, removed, labels, votes, accepted)
            if vote is not None:
                found[path] = vote
            if progress is not None:
                progress(Progress("searching", done, len(asked)))
    return found


def _vote(
    ranking: "Ranking", removed: set[int], labels: Mapping[int, str | None], votes: int, accepted: bool
) -> Prediction | None:
    heard = ranking.accepted if accepted else len(ranking)
    places = [place for place in range(heard) if int(ranking.ids[place]) not in removed][:votes]
    sums: dict[str | None, float] = {}
    for place in places:
        label = labels[int(ranking.ids[place])]
        sums[label] = sums.get(label, 0.0) + float(ranking.scores[place])
    if not sums:
        return None
    best = max(sums, key=lambda label: sums[label])  # the first of equals
    return None if best is None else Prediction(best, sums[best])


def read_set_predictions(file: Path, labelled: LabelledSet) -> tuple[dict[str, Prediction], tuple[str, ...]]:
    """Somebody's predictions for a labelled set: path of a query → prediction, and queries that the set has not.

    A CSV with the columns query, label and confidence, in any order. Queries go by their paths in the set, by file
    name, or by that without its suffix, where only one has it; labels by the names of the set's objects. A row without
    a label predicts nothing.
    Raises GroundTruthError, naming the line, for what is malformed, and where no query is known.
    """
    paths = query_names(labelled)
    places = lookup(paths, "csv")
    found: dict[str, Prediction] = {}
    seen: set[str] = set()
    strangers: dict[str, None] = {}
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            table = csv.DictReader(lines, strict=True)
            if missing := [name for name in _COLUMNS if name not in (table.fieldnames or ())]:
                raise GroundTruthError(
                    f"{file}: has no column {', '.join(missing)}: the header is query,label,confidence"
                )
            for row in table:
                where = f"{file}, line {table.line_num}"
                if None in row or any(row[name] is None for name in _COLUMNS):
                    raise GroundTruthError(f"{where}: has not as many cells as the header")
                place = places.get(row["query"])
                if place is None:
                    strangers[row["query"]] = None
                    continue
                if paths[place] in seen:
                    raise GroundTruthError(f"{where}: {row['query']} has a prediction already")
                seen.add(paths[place])
                if row["label"]:
                    found[paths[place]] = Prediction(row["label"], _confidence(row["confidence"], where))
    except (OSError, ValueError, csv.Error) as error:
        raise GroundTruthError(f"{file}: cannot be read: {error}") from error
    if not seen:
        have = f", such as {next(iter(strangers))}" if strangers else ""
        raise GroundTruthError(f"{file}: none of its {len(strangers)} queries is one of {labelled.name}{have}")
    return found, tuple(strangers)


def write_set_predictions(predictions: Mapping[str, Prediction], file: Path) -> None:
    """Write predictions as ``read_set_predictions`` reads them, whole or not at all.

    Raises ResightError where the file cannot be written.
    """
    with (
        output_file(file) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as lines,
    ):
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(_COLUMNS)
        table.writerows((query, p.label, repr(p.confidence)) for query, p in predictions.items())


def _confidence(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise GroundTruthError(f"{where}: the confidence must be a number, not {text!r}")
    return value
