"""Queries as the command line writes them: what is meant, and each one's answer."""

import sys
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from resight.cli import results
from resight.cli.index import selector
from resight.errors import ImageError, QueryError

if TYPE_CHECKING:
    from resight.images.image import Image
    from resight.search.collection import Collection
    from resight.search.drawing import Box
    from resight.search.ranking import Ranking


def parse_box(text: str) -> "Box":
    """``x1,y1,x2,y2`` as four numbers. Raises QueryError if it is anything else, or empty."""
    try:
        x1, y1, x2, y2 = (float(number) for number in text.split(","))
    except ValueError:
        raise QueryError(f"--box {text}: a box is four numbers, x1,y1,x2,y2, as in 120,80,540,400") from None
    if not (0 <= x1 < x2 < inf and 0 <= y1 < y2 < inf):
        raise QueryError(f"--box {text}: a box runs from its top left x1,y1 to its bottom right x2,y2")
    return x1, y1, x2, y2


def expand(texts: Iterable[str]) -> Iterator[str]:
    """The queries meant, lists (``@file``, ``@-``) one a line; paths are relative to the list's folder.

    Raises QueryError if a list cannot be read.
    """
    for text in texts:
        if text == "@-":
            yield from _rows(sys.stdin)
        elif text.startswith("@"):
            file = Path(text[1:])
            try:
                with file.open(encoding="utf-8", errors="surrogateescape") as rows:
                    listed = list(_rows(rows))
            except OSError as error:
                raise QueryError(f"cannot read the list {file}: {error.strerror}") from error
            yield from (row if row.startswith("id:") else str(file.parent / row) for row in listed)
        else:
            yield text


def _rows(lines: Iterable[str]) -> Iterator[str]:
    return filter(None, (line.rstrip("\r\n") for line in lines))


def answers(
    collection: "Collection", texts: Iterable[str], box: "Box | None", top: int, *, pictures: bool
) -> Iterator[results.Outcome]:
    """Each query's result, lazily and in order; one that cannot be answered does not stop the others."""
    from resight.search.page import QueryResult

    for text in texts:
        try:
            query = _query(text)
            own = query if isinstance(query, int) else None
            ranking, timing = collection.search_timed(query, box=box, top=top if own is None else top + 1)
            if own is not None:
                ranking = without(ranking, own).top(top)
            picture = _picture(collection, query) if pictures else None
            yield QueryResult(text, picture, box, ranking, timing)
        except (ImageError, QueryError) as error:
            yield results.Unanswered(text, str(error).removeprefix(f"{text}: "))


def without(ranking: "Ranking", image_id: int) -> "Ranking":
    """The ranking less one image."""
    from resight.search.ranking import Ranking

    kept = (ranking.ids != image_id).nonzero()[0]
    evidence = tuple(ranking.evidence[i] for i in kept)
    return Ranking(ranking.ids[kept], ranking.scores[kept], evidence, ranking.threshold, ranking.calibrated)


def _query(text: str) -> "int | str | Image":
    if text == "-":
        from resight.images.read import decode

        return decode(sys.stdin.buffer.read(), "standard input")
    return selector(text) if text.startswith("id:") else text


def _picture(collection: "Collection", query: "int | str | Image") -> "Image | None":
    from resight.images.read import read_image
    from resight.search.drawing import SIDE

    try:
        return read_image(collection.entry(query).origin if isinstance(query, int) else query, max_side=SIDE)
    except ImageError:
        return None  # answered from the collection, whose file is gone; the page says so in its place
