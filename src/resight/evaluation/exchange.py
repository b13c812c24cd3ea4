"""Rankings in the forms that peers exchange, out and in.

ranks: an N×Q ``.npy`` of integers, revisitop's: column q holds the 0-based places in the database of the results of the
    q-th query, best first; a shorter list ends in -1, which matches nothing.
trec: lines ``QUERY Q0 IMAGE RANK SCORE TAG``, a run of trec_eval. The score orders, as it does there.
csv: a header, and rows of query, image, and rank or score or both.
gldv2: a CSV of ``id,images``, the images separated by spaces, as for the Google Landmarks retrieval challenge.

Queries and images go by their paths in the set; in reading also by file name, or by that without its suffix, where only
one has it. Where a form separates by spaces, those in paths, and %, are percent-encoded.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from resight.errors import ResightError
from resight.evaluation.forms import FORMATS, READERS, WRITERS, Format, Line, Ranked, written
from resight.evaluation.labelled import Box, LabelledSet
from resight.files import output_file
from resight.parsing import load_array

Question = tuple[str, Box | None]  # a query's path and box

_BY_SUFFIX: Final[Mapping[str, Format]] = {".npy": "ranks", ".csv": "csv", ".trec": "trec", ".run": "trec"}


@dataclass(frozen=True, eq=False)
class Rankings:
    """What a file holds. found: of the set's `questions`, those that have a ranking in it.

    strangers: queries in the file that the set has not. sha256: of the file.
    """

    file: Path
    format: Format
    found: Mapping[Question, Ranked]
    strangers: tuple[str, ...]
    sha256: str


def questions(labelled: LabelledSet) -> tuple[Question, ...]:
    """What is asked, in order; once where queries of several subsets ask the same."""
    return tuple(dict.fromkeys((query.path, query.box) for query in labelled.queries))


def format_of(file: Path, given: str | None = None) -> Format:
    """The form named, or else told by the suffix. Raises ResightError where neither is one."""
    if given is None:
        if found := _BY_SUFFIX.get(file.suffix):
            return found
        raise ResightError(f"{file}: its suffix does not tell its form: give --format {', '.join(FORMATS)}")
    for each in FORMATS:
        if each == given:
            return each
    raise ResightError(f"no form of rankings is called {given!r}; choose {', '.join(FORMATS)}")


def check_folder(file: Path) -> None:
    """Raises ResightError where the folder that a file is to be written into is not there: before hours of work."""
    if not file.absolute().parent.is_dir():
        raise ResightError(f"cannot write {file}: there is no folder {file.parent}; make it, or name another")


def read_rankings(file: str | Path, labelled: LabelledSet, form: str | None = None) -> Rankings:
    """Somebody's rankings for a set.

    Equal scores are ordered by place in the database. Raises ResightError, naming the file and the line or column, for
    what is malformed, an image that the database has not, ranks that contradict scores, and where no query is known.
    """
    file = Path(file)
    chosen = format_of(file, form)
    try:
        sha256 = _digest(file)
        strangers: tuple[str, ...]
        if chosen == "ranks":
            found, strangers = _read_array(file, labelled), ()
        else:
            with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
                found, strangers = _collect(file, labelled, chosen, READERS[chosen](file, stream))
    except OSError as error:
        raise ResightError(f"{file}: cannot be read: {error.strerror}") from error
    if not found:
        have = f", such as {strangers[0]}" if strangers else ""
        raise ResightError(f"{file}: none of its {len(strangers)} queries is one of {labelled.name}{have}")
    return Rankings(file, chosen, found, strangers, sha256)


def write_rankings(
    file: str | Path, labelled: LabelledSet, found: Mapping[Question, Ranked], form: str | None = None
) -> None:
    """Rankings of the set's `questions`; written whole or not at all.

    Raises ResightError where the file cannot be written, or the form cannot tell two questions apart or needs scores
    that are not there.
    """
    file = Path(file)
    chosen = format_of(file, form)
    with output_file(file) as partial:
        if chosen == "ranks":
            ranks = _array([found.get(question) for question in questions(labelled)])
            with partial.open("wb") as binary:
                np.save(binary, ranks, allow_pickle=False)
        else:
            query_names(labelled)
            pairs = [(question[0], found[question]) for question in questions(labelled) if question in found]
            with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
                WRITERS[chosen](stream, pairs, labelled.database, file)


def query_names(labelled: LabelledSet) -> list[str]:
    """The path of each question. Raises ResightError where two questions have one, and differ in their box."""
    paths = [path for path, _ in questions(labelled)]
    if len(set(paths)) != len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ResightError(
            f"{labelled.file}: {twice} is asked with several boxes, which only the form ranks tells apart"
        )
    return paths


def lookup(paths: Sequence[str], form: Format | Literal["qrels"]) -> dict[str, int]:
    """Place of each path by all that it may go by in a form; what two share, neither goes by."""
    table: dict[str, int] = {}
    whole: Callable[[str], str] = str if form == "csv" else written
    spellings: tuple[Callable[[str], str], ...] = (
        *(whole, str),
        lambda path: whole(path).rpartition("/")[2],
        lambda path: Path(whole(path)).stem,
    )
    for spell in spellings:
        found: dict[str, list[int]] = {}
        for place, path in enumerate(paths):
            found.setdefault(spell(path), []).append(place)
        for name, places in found.items():
            if len(places) == 1:
                table.setdefault(name, places[0])
    return table


def _collect(
    file: Path, labelled: LabelledSet, form: Format, lines: Iterator[Line]
) -> tuple[dict[Question, Ranked], tuple[str, ...]]:
    asked, images = questions(labelled), lookup(labelled.database, form)
    queries = lookup(query_names(labelled), form)
    found: dict[int, list[tuple[Line, int]]] = {}
    strangers: dict[str, None] = {}
    for line in lines:
        query = queries.get(line.query)
        if query is None:
            strangers[line.query] = None
            continue
        image = images.get(line.image)
        if image is None:
            raise ResightError(
                f"{file}, line {line.number}: {labelled.name} has no database image {line.image}, or several of that "
                "name: give the same set, with its distractors, and paths as in it"
            )
        found.setdefault(query, []).append((line, image))
    return {asked[query]: _ordered(file, entries) for query, entries in sorted(found.items())}, tuple(strangers)


def _ordered(file: Path, entries: list[tuple[Line, int]]) -> Ranked:
    by_rank = sorted(entries, key=lambda entry: entry[0].rank or 0)
    ranked = all(line.rank is not None for line, _ in entries)
    for (before, _), (line, _) in itertools.pairwise(by_rank) if ranked else ():
        if line.rank == before.rank:
            raise ResightError(f"{file}, line {line.number}: rank {line.rank} of {line.query} is given twice")
        if line.score is not None and before.score is not None and line.score > before.score:
            raise ResightError(
                f"{file}, line {line.number}: rank {line.rank} of {line.query} has a higher score than the one before "
                "it: leave out the column rank or score, whichever does not order"
            )
    scores = [line.score for line, _ in entries if line.score is not None]
    if len(scores) < len(entries):
        return Ranked(np.array([image for _, image in by_rank], np.int64), None)
    places, similar = np.array([image for _, image in entries], np.int64), np.array(scores, np.float64)
    order = np.lexsort((places, -similar))
    return Ranked(places[order], similar[order])


def _read_array(file: Path, labelled: LabelledSet) -> dict[Question, Ranked]:
    try:
        array = load_array(file)
    except ValueError as error:
        raise ResightError(f"{file}: is no .npy array of numbers: {error}") from error
    asked, size = questions(labelled), len(labelled.database)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ResightError(f"{file}: ranks are one array of integers, database × queries")
    if array.shape[1] != len(asked):
        turned = ": transpose it" if array.shape[0] == len(asked) else ""
        raise ResightError(
            f"{file}: has {array.shape[1]} columns for the {len(asked)} queries of {labelled.name}{turned}"
        )
    found: dict[Question, Ranked] = {}
    for column, (question, ranks) in enumerate(zip(asked, array.T, strict=True)):
        ends = np.flatnonzero(ranks == -1)
        places = ranks[: ends[0]] if len(ends) else ranks
        if len(ends) and np.any(ranks[ends[0] :] != -1):
            raise ResightError(f"{file}: column {column} goes on after -1, which ends it")
        if strangers := places[(places < 0) | (places >= size)].tolist():
            raise ResightError(
                f"{file}: column {column} has {strangers[0]}, and {labelled.name} has the images 0 to {size - 1}: "
                "places count from 0, in the order of its database"
            )
        if len(places):
            found[question] = Ranked(places.astype(np.int64), None)
    return found


def _array(asked: Sequence[Ranked | None]) -> NDArray[np.int64]:
    lengths = [0 if ranked is None else len(ranked.places) for ranked in asked]
    array = np.full((max(lengths, default=0), len(asked)), -1, np.int64)
    for column, ranked in enumerate(asked):
        if ranked is not None:
            array[: len(ranked.places), column] = ranked.places
    return array


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
