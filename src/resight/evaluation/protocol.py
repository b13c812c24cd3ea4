"""Index a labelled set's database, ask every query, and report figures with their protocol (§6)."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from resight.errors import CollectionError, ImageError, QueryError
from resight.evaluation.acceptance import Outcome
from resight.evaluation.conditions import Protocol
from resight.evaluation.figures import Figures, figures
from resight.evaluation.judge import judge, row
from resight.evaluation.kept import open_kept
from resight.evaluation.labelled import LabelledSet, Query, with_distractors
from resight.evaluation.load import load_labelled
from resight.evaluation.measure import costs, versions
from resight.evaluation.metrics import TRUNCATE_AT, check_kind
from resight.evaluation.report import Report, Row
from resight.fitted import Fitted
from resight.recipes.recipe import Recipe

if TYPE_CHECKING:
    from resight.search.collection import Collection, Progress, Timing
    from resight.search.ranking import Ranking


def evaluate(
    labelled: LabelledSet | str | Path,
    recipe: Recipe | str | Path = "rootsift-asmk",
    *,
    distractors: Iterable[str | Path] = (),
    collection: str | Path | None = None,
    ap: str | None = None,
    top: int = 10,
    adapter: str | None = None,
    workers: int | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> Report:
    """How well a recipe answers the queries of a labelled set.

    labelled: the set, or the folder to load it from. distractors: folders whose images join its database.
    collection: a folder to keep the collection in, so that another run need not index again; else a temporary
        one.
    ap: kind of average precision, one of `metrics.AVERAGE_PRECISIONS`; None for the set's own. top: results kept in
        each row of the report.
    adapter: of the recipe's [adapters], in place of its default, which a kept collection need not have been made with.
    workers: processes that describe images; None for the collection's choice.

    A query that is itself in the database is removed from its own ranking unless it keeps itself, and where it has no
    box its stored description is the query. A database image that could not be indexed counts as not retrieved and is
    reported.
    Raises GroundTruthError, QueryError naming a query that cannot be read, or for an unknown adapter, and
    CollectionError where ``collection`` was made by another recipe or holds images that are not in the set's database.
    """
    from resight.search.collection import Progress

    if ap is not None:
        check_kind(ap)
    if not isinstance(labelled, LabelledSet):
        labelled = load_labelled(labelled)
    kind = ap or labelled.average_precision
    labelled = with_distractors(labelled, distractors)
    with opened(recipe, collection) as index:
        if adapter is not None:
            index.adapter = adapter
        ids_of(index, labelled)  # refuse a collection of other images before anything is added to it
        began = perf_counter()
        database = [labelled.locate(path) for path in labelled.database]
        added = index.add(database, workers=workers, progress=progress)
        index_seconds = perf_counter() - began
        ids = ids_of(index, labelled)
        names = {image_id: path for path, image_id in ids.items()}
        reasons = {failure.origin: failure.reason for failure in index.failures()}
        outcomes: list[Outcome] = []
        rows: list[Row] = []
        timings: list[Timing] = []
        for query in labelled.queries:
            ranking, timing = ask(index, labelled, query, ids)
            outcomes.append(judge(query, ranking, ids))
            rows.append(row(query, outcomes[-1], ranking, names, kind=kind, top=top))
            timings.append(timing)
            if progress is not None:
                progress(Progress("searching", len(rows), len(labelled.queries)))
        stored = [_is_stored(query, ids, index) for query in labelled.queries]
        return Report(
            root=str(labelled.root),
            protocol=_protocol(labelled, index, kind, sum(stored)),
            figures=figures(outcomes, kind, in_fours=labelled.in_fours),
            subsets=by_subset(labelled, outcomes, lambda part: figures(part, kind, in_fours=labelled.in_fours)),
            costs=costs(index_seconds, added.added + added.changed, timings, stored, index.info().bytes_on_disk),
            not_indexed={
                path: reasons.get(str(labelled.locate(path)), "not indexed")
                for path in labelled.database
                if path not in ids
            },
            rows=tuple(rows),
            groups=labelled.groups,
        )


@contextmanager
def opened(recipe: Recipe | str | Path, folder: str | Path | None) -> "Iterator[Collection]":
    """A collection of the recipe: in the folder, where there may be one; or in one that goes afterwards."""
    from resight.search.collection import Collection

    if folder is None:
        with (
            tempfile.TemporaryDirectory(prefix="resight-evaluate-") as temporary,
            Collection.create(Path(temporary) / "collection", recipe) as index,
        ):
            yield index
    else:
        with open_kept(Path(folder), _read(recipe)) as index:
            yield index


def _read(recipe: Recipe | str | Path) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    from resight.recipes import load_recipe

    return load_recipe(recipe)


def ids_of(index: "Collection", labelled: LabelledSet) -> dict[str, int]:
    """Image path → id of every database image that was indexed; nothing else may be ranked."""
    ids: dict[str, int] = {}
    for path in labelled.database:
        if (image_id := index.find(str(labelled.locate(path)))) is not None:
            ids[path] = image_id
    if strays := len(index) - len(ids):
        raise CollectionError(
            f"the collection holds {strays} images that are not in the database of {labelled.name}, "
            "which would be ranked too; name another folder for it"
        )
    return ids


def _is_stored(query: Query, ids: Mapping[str, int], index: "Collection") -> bool:
    """Whether the collection holds the very description that the query would get."""
    return query.box is None and query.path in ids and index.recipe.query is None


def ask(index: "Collection", labelled: LabelledSet, query: Query, ids: Mapping[str, int]) -> "tuple[Ranking, Timing]":
    """The answer to a query and what it took. Raises QueryError that names the query where it cannot be answered."""
    asked = ids[query.path] if _is_stored(query, ids, index) else labelled.locate(query.path)
    try:
        return index.search_timed(asked, box=query.box, exact=True)
    except (ImageError, QueryError) as error:
        raise QueryError(f"query {query.path} of {labelled.name}: {error}") from error


def _protocol(labelled: LabelledSet, index: "Collection", kind: str, stored: int) -> Protocol:
    learned = index.learned()
    return conditions(
        labelled,
        kind,
        stored=stored,
        ties="equal scores are ordered by image id",
        recipe=index.recipe.name,
        fingerprint=index.fingerprint,
        fitted_on=_fitted_on(learned, index.recipe),
        fitted_share=fitted_share(learned, labelled, index),
    )


def conditions(
    labelled: LabelledSet,
    kind: str,
    *,
    stored: int,
    ties: str,
    recipe: str,
    fingerprint: str,
    fitted_on: Mapping[str, str],
    fitted_share: Mapping[str, float],
) -> Protocol:
    """What figures of a labelled set's queries depend on. kind: of average precision; the rest as ``Protocol``."""
    return Protocol(
        name=labelled.name,
        revision=labelled.revision,
        text=labelled.protocol,
        selection=labelled.selection,
        database=len(labelled.database),
        distractors=labelled.distractors,
        queries=len(labelled.queries),
        unanswerable=sum(not query.positives for query in labelled.queries),
        leave_one_out=labelled.leave_one_out,
        boxed=sum(query.box is not None for query in labelled.queries),
        stored=stored,
        average_precision=f"{kind}, within the first {TRUNCATE_AT[kind]}" if kind in TRUNCATE_AT else kind,
        ties=ties,
        junk="removed from the ranking before anything is counted",
        recipe=recipe,
        fingerprint=fingerprint,
        fitted_on=fitted_on,
        fitted_share=fitted_share,
        versions=versions(),
    )


def by_subset(
    labelled: LabelledSet, outcomes: Sequence[Outcome], figured: Callable[[list[Outcome]], Figures]
) -> dict[str, Figures]:
    """The figures of each of the set's subsets, from all queries' outcomes, in order."""
    parts: dict[str, list[Outcome]] = {}
    for query, outcome in zip(labelled.queries, outcomes, strict=True):
        if query.subset is not None:
            parts.setdefault(query.subset, []).append(outcome)
    return {name: figured(parts[name]) for name in sorted(parts)}


def _fitted_on(learned: Mapping[str, Fitted], recipe: Recipe) -> dict[str, str]:
    """What every learned part was fitted on: fitting on the tested database is leakage and must be seen."""
    fitted = {part: artefact.fitted_on for part, artefact in learned.items()}
    if recipe.calibration is not None:
        fitted["calibration"] = recipe.calibration.fitted_on
    return fitted


def fitted_share(learned: Mapping[str, Fitted], labelled: LabelledSet, index: "Collection") -> dict[str, float]:
    """Of each learned part, the share of the set's own database among the photos that it was fitted on, where known."""
    own = {str(labelled.locate(path)) for path in labelled.own}
    digests = [digest for origin, digest in index.digests() if origin in own]
    sketches = {part: artefact.photos for part, artefact in learned.items()}
    shares = {part: photos.share_in(digests) for part, photos in sketches.items() if photos is not None}
    return {part: share for part, share in shares.items() if share is not None}
