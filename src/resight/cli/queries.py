"""Queries as the command line writes them: what is meant, and each one's answer."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from pathlib import Path
from typing import TYPE_CHECKING

from resight.cli import results
from resight.cli.index import selector
from resight.errors import ImageError, QueryError

if TYPE_CHECKING:
    from resight.images.image import Image
    from resight.recipes.query_stage import QueryStage
    from resight.search.collection import Collection
    from resight.search.drawing import Box
    from resight.search.ranking import Ranking
    from resight.store.where import Where


@dataclass(frozen=True)
class Scope:
    """Which images are searched, and whether all of them are compared: as ``Collection.search`` takes both."""

    where: "Where | None" = None
    exact: bool = False


_ALL = Scope()

# What may follow an example's image: @x1,y1,x2,y2 and *weight. The image's own name may hold both signs.
_TAIL = re.compile(r"(?:@(?P<box>[^@*]*))?(?:\*(?P<weight>[^@*]*))?")
_NUMBERS = re.compile(r"(?:@[-+.,\deE]*)?(?:\*[-+.\deE]*)?")


@dataclass(frozen=True)
class AskedExample:
    """An example as the command line writes it: image's path, ``id:N`` or ``-``; a weight below 0 for less like it."""

    image: str
    box: "Box | None" = None
    weight: float = 1.0


def parse_example(text: str, option: str) -> AskedExample:
    """``IMAGE[@x1,y1,x2,y2][*weight]``, where IMAGE is the longest front part of the text that is an image there is.

    option: --also, or --not, which turns the weight's sign. Raises QueryError for anything else behind the image, a
    box as ``parse_box`` refuses it, and a weight that is not above 0. Whether there is an image is for the search.
    """
    ends = [len(text), *(i for i in range(len(text) - 1, 0, -1) if text[i] in "@*")]
    end = next((end for end in ends if _exists(text[:end])), None)
    if end is None:  # the error will name what comes before what looks like a box and a weight
        end = next(end for end in reversed(ends) if _NUMBERS.fullmatch(text[end:]))
    tail = _TAIL.fullmatch(text[end:])
    if tail is None:
        raise QueryError(f"{option} {text}: what follows the image is @x1,y1,x2,y2, or *weight, or one after the other")
    box = None if tail["box"] is None else parse_box(tail["box"], f"{option} {text}")
    try:
        weight = 1.0 if tail["weight"] is None else float(tail["weight"])
    except ValueError:
        weight = nan
    if not 0 < weight < inf:
        raise QueryError(f"{option} {text}: a weight is a number above 0, as in photo.jpg*0.5; --not is for less of it")
    return AskedExample(text[:end], box, -weight if option == "--not" else weight)


def _exists(image: str) -> bool:
    from resight.images.archives import split_member
    from resight.images.read import load

    if image == "-" or re.fullmatch(r"id:\d+", image) or os.path.isfile(image):  # noqa: PTH113 - no name makes it raise
        return True
    if split_member(image) is None:
        return False
    try:
        return bool(load(image))
    except ImageError:
        return False


def parse_box(text: str, name: str | None = None) -> "Box":
    """``x1,y1,x2,y2`` as four numbers. Raises QueryError, beginning with `name`, if it is anything else, or empty."""
    name = f"--box {text}" if name is None else name
    try:
        x1, y1, x2, y2 = (float(number) for number in text.split(","))
    except ValueError:
        raise QueryError(f"{name}: a box is four numbers, x1,y1,x2,y2, as in 120,80,540,400") from None
    if not (0 <= x1 < x2 < inf and 0 <= y1 < y2 < inf):
        raise QueryError(f"{name}: a box runs from its top left x1,y1 to its bottom right x2,y2")
    return x1, y1, x2, y2


def parse_look(turns: int, scales: str | None, merge: str = "max") -> "QueryStage":
    """How a query is looked at: ``1,0.5`` as scales. Raises QueryError for what [query] of a recipe could not say."""
    from pydantic import ValidationError

    from resight.recipes.query_stage import QueryStage
    from resight.recipes.stage import problems

    table = {"turns": turns, "scales": [1.0] if scales is None else scales.split(","), "merge": merge}
    try:
        return QueryStage.model_validate(table)
    except ValidationError as error:
        raise QueryError(f"looking at the query again: {problems(error, 'query')}") from error


def parse_looks(turns: Sequence[int], scales: Sequence[str], merge: str) -> "dict[str, QueryStage]":
    """``parse_look`` of each number of turns and of each text of scales, by a name."""
    found = {f"{number} turns": parse_look(number, None, merge) for number in turns}
    return found | {f"scales {text}": parse_look(1, text, merge) for text in scales}


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
    collection: "Collection",
    texts: Iterable[str],
    box: "Box | None",
    top: int,
    *,
    pictures: bool,
    further: Sequence[AskedExample] = (),
    scope: Scope = _ALL,
) -> Iterator[results.Outcome]:
    """Each query's result, lazily and in order; one that cannot be answered does not stop the others.

    further: examples beside the query. Those that are images of the collection are left out of the results.
    """
    from resight.search.examples import Example
    from resight.search.page import QueryResult, ShownExample

    for text in texts:
        try:
            asked = [(_query(e.image), e) for e in (AskedExample(text, box), *further)]
            own = {query for query, _ in asked if isinstance(query, int)}
            if further:
                examples = [Example(query, e.box, e.weight) for query, e in asked]
                ranking, timing = collection.search_examples_timed(
                    examples, top=top + len(own), where=scope.where, exact=scope.exact
                )
            else:
                ranking, timing = collection.search_timed(
                    asked[0][0], box=box, top=top + len(own), where=scope.where, exact=scope.exact
                )
            for image_id in own:
                ranking = without(ranking, image_id)
            first, *others = [
                ShownExample(e.image, _picture(collection, query) if pictures else None, e.box, e.weight)
                for query, e in asked
            ]
            yield QueryResult(text, first.picture, box, ranking.top(top), timing, tuple(others))
        except (ImageError, QueryError) as error:
            yield results.Unanswered(text, str(error).removeprefix(f"{text}: "))


def without(ranking: "Ranking", image_id: int) -> "Ranking":
    """The ranking less one image. Where that is a match, where the filter has the first of the others is not known."""
    place = None if image_id in ranking.ids[: ranking.accepted] else ranking.place
    return replace(ranking.take((ranking.ids != image_id).nonzero()[0].tolist()), place=place)


def _query(text: str) -> "int | str | Image":
    if text == "-":
        from resight.images.apart import decode_apart

        try:
            return decode_apart(sys.stdin.buffer.read(), "standard input")
        except ImageError as error:
            raise ImageError(f"{text}: {error.reason}") from error
    return selector(text) if text.startswith("id:") else text


def _picture(collection: "Collection", query: "int | str | Image") -> "Image | None":
    from resight.images.apart import read_image_apart
    from resight.search.drawing import SIDE

    try:
        return read_image_apart(collection.entry(query).origin if isinstance(query, int) else query, max_side=SIDE)
    except ImageError:
        return None  # answered from the collection, whose file is gone; the page says so in its place
