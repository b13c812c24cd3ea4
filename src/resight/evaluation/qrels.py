"""Judgements as trec_eval reads them: lines ``QUERY 0 IMAGE RELEVANCE``, positives 1 and junk -1."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from resight.errors import GroundTruthError, ResightError
from resight.evaluation.exchange import lookup, query_names
from resight.evaluation.forms import written
from resight.evaluation.labelled import LabelledSet, Query
from resight.files import output_file

_RELEVANCE = re.compile(r"-?[0-9]{1,9}")


def write_qrels(file: str | Path, labelled: LabelledSet) -> None:
    """The set's judgements. trec_eval knows no junk, and counts -1 as it counts what nobody judged, as wrong.

    Raises ResightError where the file cannot be written, or a path is asked twice.
    """
    query_names(labelled)
    if len(labelled.queries) != len({query.path for query in labelled.queries}):
        raise ResightError(f"{labelled.file}: some query is asked in several subsets, with answers of its own in each")
    lines = [
        f"{written(query.path)} 0 {written(path)} {relevance}\n"
        for query in labelled.queries
        for relevance, paths in ((1, query.positives), (-1, query.junk))
        for path in sorted(paths)
    ]
    with output_file(Path(file)) as partial:
        partial.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def with_qrels(labelled: LabelledSet, file: str | Path) -> LabelledSet:
    """The set with the judgements of a file in place of its own, and the queries that it judges.

    Above 0 is positive, below junk, 0 wrong. A query that is in the database is no answer to itself, unless it keeps
    itself. Raises GroundTruthError, naming the file and the line, for what is malformed, twice or not in the set.
    """
    file = Path(file)
    try:
        data = file.read_bytes()
        text = data.decode(errors="surrogateescape")
    except OSError as error:
        raise GroundTruthError(f"{file}: cannot be read: {error.strerror}") from error
    names = query_names(labelled)
    queries, images = lookup(names, "qrels"), lookup(labelled.database, "qrels")
    judged: dict[str, dict[str, int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{file}, line {number}"
        if len(fields) != 4 or not _RELEVANCE.fullmatch(fields[3]):
            raise GroundTruthError(f"{where}: is not QUERY 0 IMAGE RELEVANCE")
        for known, name, what in ((queries, fields[0], "query"), (images, fields[2], "database image")):
            if name not in known:
                raise GroundTruthError(f"{where}: {labelled.name} has no {what} {name}, or several of that name")
        of = judged.setdefault(names[queries[fields[0]]], {})
        image = labelled.database[images[fields[2]]]
        if image in of:
            raise GroundTruthError(f"{where}: {fields[2]} is judged for {fields[0]} already")
        of[image] = int(fields[3])
    if not judged:
        raise GroundTruthError(f"{file}: judges nothing")
    first = {query.path: query for query in reversed(labelled.queries)}
    kept = [_judged(first[name], judged[name]) for name in names if name in judged]
    return replace(
        labelled,
        file=file,
        queries=tuple(kept),
        protocol=f"judgements of {file.name}",
        revision=hashlib.sha256(data).hexdigest(),
        selection="",
    )


def _judged(query: Query, judged: dict[str, int]) -> Query:
    itself = frozenset() if query.keeps_itself else frozenset({query.path})
    return replace(
        query,
        positives=frozenset(path for path, relevance in judged.items() if relevance > 0) - itself,
        junk=frozenset(path for path, relevance in judged.items() if relevance < 0) - itself,
        subset=None,
    )
