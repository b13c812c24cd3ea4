"""The forms of rankings that are text, line by line; see `exchange`."""

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TextIO, get_args
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from resight.errors import ResightError

Format = Literal["ranks", "trec", "csv", "gldv2"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)


@dataclass(frozen=True, eq=False)
class Ranked:
    """One query's results, best first.

    places: N int64, in the set's database; one may repeat. scores: N float64, non-increasing; None where unknown.
    """

    places: NDArray[np.int64]
    scores: NDArray[np.float64] | None


@dataclass(frozen=True)
class Line:
    """One result. number: of the line that it stands in."""

    number: int
    query: str
    image: str
    rank: int | None
    score: float | None


def written(path: str) -> str:
    """A path without white space, for forms that separate by it."""
    return re.sub(r"[\s%]", lambda match: quote(match[0]), path)


def _read_trec(file: Path, stream: TextIO) -> Iterator[Line]:
    for number, text in enumerate(stream, 1):
        fields = text.split()
        if not fields:
            continue
        if len(fields) != 6:
            raise ResightError(f"{file}, line {number}: {len(fields)} fields, not QUERY Q0 IMAGE RANK SCORE TAG")
        query, _, image, _, score, _ = fields
        yield Line(number, query, image, None, _number(file, number, "score", score))


def _read_csv(file: Path, stream: TextIO) -> Iterator[Line]:
    lines = _cells(file, stream)
    number, head = next(lines, (1, []))
    head = [name.strip().lower() for name in head]
    if not {"query", "image"} <= set(head) or not {"rank", "score"} & set(head) or len(set(head)) < len(head):
        raise ResightError(f"{file}, line {number}: the header is {','.join(head)!r}, not query,image,rank,score")
    for number, cells in lines:
        row = dict(zip(head, cells, strict=True))
        yield Line(
            number,
            row["query"],
            row["image"],
            int(_number(file, number, "rank", row["rank"], whole=True)) if "rank" in row else None,
            _number(file, number, "score", row["score"]) if "score" in row else None,
        )


def _read_gldv2(file: Path, stream: TextIO) -> Iterator[Line]:
    lines = _cells(file, stream)
    number, head = next(lines, (1, []))
    if head != ["id", "images"]:
        raise ResightError(f"{file}, line {number}: the header is {','.join(head)!r}, not id,images")
    seen: set[str] = set()
    for number, (query, images) in lines:
        if query in seen:
            raise ResightError(f"{file}, line {number}: query {query} has a line already")
        seen.add(query)
        for rank, image in enumerate(images.split(), 1):
            yield Line(number, query, image, rank, None)


def _cells(file: Path, stream: TextIO) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file, of as many cells each as the first, with their numbers; empty ones are left out."""
    reader = csv.reader(stream, strict=True)
    width = 0
    try:
        for cells in reader:
            width = width or len(cells)
            if cells and len(cells) != width:
                raise ResightError(f"{file}, line {reader.line_num}: {len(cells)} cells, and the header has {width}")
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ResightError(f"{file}, line {reader.line_num}: {error}") from error


def _number(file: Path, line: int, what: str, text: str, *, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
        finite = math.isfinite(value)
    except (ValueError, OverflowError):
        finite = False
    if not finite:
        raise ResightError(f"{file}, line {line}: {what} {text!r} is no {'whole' if whole else 'finite'} number")
    return value


_Pairs = Sequence[tuple[str, Ranked]]


def _write_trec(stream: TextIO, pairs: _Pairs, database: Sequence[str], file: Path) -> None:
    names = [written(path) for path in database]
    for query, ranked in pairs:
        if ranked.scores is None:
            raise ResightError(f"{file}: trec_eval orders by score, and {query} has none: choose another form")
        entries = zip(ranked.places.tolist(), ranked.scores.tolist(), strict=True)
        for rank, (place, score) in enumerate(entries, 1):
            stream.write(f"{written(query)} Q0 {names[place]} {rank} {score!r} resight\n")


def _write_csv(stream: TextIO, pairs: _Pairs, database: Sequence[str], file: Path) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    scored = all(ranked.scores is not None for _, ranked in pairs)
    writer.writerow(["query", "image", "rank", "score"] if scored else ["query", "image", "rank"])
    for query, ranked in pairs:
        scores = [] if ranked.scores is None or not scored else [[repr(score)] for score in ranked.scores.tolist()]
        for rank, place in enumerate(ranked.places.tolist(), 1):
            writer.writerow([query, database[place], rank, *(scores[rank - 1] if scores else ())])


def _write_gldv2(stream: TextIO, pairs: _Pairs, database: Sequence[str], file: Path) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["id", "images"])
    for query, ranked in pairs:
        writer.writerow([written(query), " ".join(written(database[place]) for place in ranked.places.tolist())])


READERS: Final[Mapping[str, Callable[[Path, TextIO], Iterator[Line]]]] = {
    "trec": _read_trec,
    "csv": _read_csv,
    "gldv2": _read_gldv2,
}
WRITERS: Final[Mapping[str, Callable[[TextIO, _Pairs, Sequence[str], Path], None]]] = {
    "trec": _write_trec,
    "csv": _write_csv,
    "gldv2": _write_gldv2,
}
