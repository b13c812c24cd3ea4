"""Vectors of a labelled set under many descriptors of one network at once, and how well each ranks.

Descriptors that see the same pictures are computed from the same passes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from resight.describe.describer import Describer, load_global
from resight.errors import ImageError, QueryError, RecipeError
from resight.evaluation.figures import figures
from resight.evaluation.judge import judge
from resight.evaluation.labelled import LabelledSet
from resight.geometry.boxes import Box
from resight.images.image import Image
from resight.recipes.network_stages import Branch, GlobalStage
from resight.recipes.recipe import Recipe
from resight.search.ranking import Ranking

if TYPE_CHECKING:  # it imports torch
    from resight.describe.global_descriptor import GlobalDescriber, Prepared

_BATCH, _READERS = 16, 4  # images described together, and threads that read the next of them: bound memory
_ASKED = 256  # queries compared with a database at a time: bounds memory

Picture = tuple[str | Path, Box | None]
Read = Callable[[str | Path, Box | None], Image]
Vectors = Mapping[str, NDArray[np.float32]]  # descriptor → N×C, ℓ2-normalised
Report = Callable[[str, int, int | None], None]  # phase, done, total


def reading(recipe: Recipe) -> Read:
    """Reads pixels as the recipe says."""
    describer = Describer(recipe)  # its network is not loaded
    return lambda path, box: describer.read(path, box)[0]


def silent(phase: str, done: int, total: int | None) -> None:
    """Reports nothing."""


@dataclass(frozen=True, eq=False)
class Described:
    """Pictures' vectors; none where no picture could be read.

    places: of the N pictures that could be read. unread: place → reason, of the others.
    """

    vectors: Vectors
    places: tuple[int, ...]
    unread: Mapping[int, str]

    def rows(self, paths: Sequence[str]) -> dict[str, int]:
        """The row of each picture's vectors, by the path it has here."""
        return {paths[place]: row for row, place in enumerate(self.places)}


@dataclass(frozen=True, eq=False)
class Variants:
    """Descriptors that are computed together.

    names: of each. describer: makes a vector for each of them. read: an image, or a box in it; may raise ImageError.
    """

    names: tuple[str, ...]
    describer: "GlobalDescriber"
    read: Read

    @classmethod
    def of(cls, tables: Mapping[str, Mapping[str, Any]], read: Read, recipe: str = "RECIPE") -> Self:
        """Of `[global]` tables by name. recipe: its name, for messages. Raises RecipeError as GlobalDescriber does."""
        first, *others = (Branch.model_validate(table).model_dump() for table in tables.values())
        # Late fusion keeps every variant's vector apart.
        stage = GlobalStage.model_validate({**first, "also": others, "fusion": "scores"})
        return cls(tuple(tables), load_global(stage, recipe), read)

    def describe(self, pictures: Sequence[Picture], phase: str = "describing", report: Report = silent) -> Described:
        """The pictures' vectors. Raises RecipeError where what makes them has yet to learn."""
        if self.describer.unlearned:
            raise RecipeError("the recipe's pooling or embedding has yet to learn: make it ready with `resight fit`")
        parts: list[list[NDArray[np.float32]]] = [[] for _ in self.names]
        places: list[int] = []
        unread: dict[int, str] = {}
        for batch in self._prepared(pictures):
            views = []
            for place, found in enumerate(batch, len(places) + len(unread)):
                if isinstance(found, ImageError):
                    unread[place] = found.reason
                else:
                    places.append(place)
                    views.append(found)
            for part, vectors in zip(parts, self.describer.samples(views) if views else [], strict=bool(views)):
                part.append(vectors.astype(np.float32))
            report(phase, len(places) + len(unread), len(pictures))
        named = {name: np.concatenate(part) for name, part in zip(self.names, parts, strict=True) if part}
        return Described(named, tuple(places), unread)

    def queries(self, labelled: LabelledSet, database: Described, report: Report = silent) -> Vectors:
        """The queries' vectors: the database's own where a whole image of it is asked about.

        Raises QueryError, naming the query, where one cannot be read.
        """
        rows = database.rows(labelled.database)
        asked = labelled.queries
        new = [place for place, q in enumerate(asked) if q.box is not None or q.path not in rows]
        known = sorted(set(range(len(asked))) - set(new))
        found = {name: np.empty((len(asked), x.shape[1]), np.float32) for name, x in database.vectors.items()}
        for name, x in database.vectors.items():
            found[name][known] = x[[rows[asked[place].path] for place in known]]
        if new:
            pictures = [(labelled.locate(asked[place].path), asked[place].box) for place in new]
            described = self.describe(pictures, f"queries of {labelled.name}", report)
            for place, reason in described.unread.items():
                raise QueryError(f"query {asked[new[place]].path} of {labelled.name}: {reason}")
            for name, x in described.vectors.items():
                found[name][new] = x
        return found

    def _prepared(self, pictures: Sequence[Picture]) -> Iterator[list["Prepared | ImageError"]]:
        """Batches, the next read in threads while the network computes the last one."""

        def prepare(picture: Picture) -> "Prepared | ImageError":
            try:
                return self.describer.prepare(self.read(*picture).pixels)
            except ImageError as error:
                return error

        with ThreadPoolExecutor(_READERS) as readers:
            coming = readers.map(prepare, pictures[:_BATCH])
            for start in range(0, len(pictures), _BATCH):
                batch = list(coming)
                coming = readers.map(prepare, pictures[start + _BATCH : start + 2 * _BATCH])
                yield batch


def cosines(queries: NDArray[np.float32], database: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """For each of Q×C unit vectors, its cosine with each of N×C, (N,)."""
    for start in range(0, len(queries), _ASKED):
        yield from queries[start : start + _ASKED] @ database.T


def measure(
    labelled: LabelledSet, similarities: Iterable[NDArray[np.floating]], rows: Mapping[str, int] | None = None
) -> float:
    """mAP of each query's similarities to the database, (N,).

    rows: place in these of the images that have one, which are all in the set's order where it is not given. Ties are
    in order of place; an image without a place is not retrieved.
    """
    known = {path: place for place, path in enumerate(labelled.database)} if rows is None else rows
    outcomes = []
    for query, scores in zip(labelled.queries, similarities, strict=True):
        order = np.argsort(-scores, kind="stable")
        ranking = Ranking(order, scores[order].astype(np.float32), (None,) * len(order), -math.inf, calibrated=False)
        outcomes.append(judge(query, ranking, known))
    found = figures(outcomes).mean_average_precision
    assert found is not None  # every labelled set has a query with an answer
    return found
