"""Describing photos on the nodes of a cluster, a chunk a task."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

from resight.cluster.chunks import Chunk, chunk_name, cut, pack
from resight.cluster.engine import in_order
from resight.cluster.files import Files
from resight.describe.describer import Describer
from resight.errors import CollectionError
from resight.images.sources import Source
from resight.recipes.recipe import Recipe
from resight.store.indexing import described, outcomes_of
from resight.store.workers import Outcome


@dataclass(frozen=True)
class Place:
    """Where the description of an image lies: a chunk's file, and the row in it."""

    chunk: str
    row: int


class Describing:
    """Describes sources on the cluster, as ``resight.store.indexing.Elsewhere``, and remembers where they lie.

    size: photos in a chunk, about. timeout: seconds that one may take. places: of each described image, by origin.
    """

    def __init__(self, url: str, recipe: Recipe, fingerprint: str, *, size: int, timeout: float) -> None:
        self._url, self._recipe, self._fingerprint = url, recipe, fingerprint
        self._size, self._timeout = size, timeout
        self.places: dict[str, Place] = {}

    def __call__(self, sources: list[Source], known: frozenset[str]) -> Generator[Outcome]:
        arguments = (
            (self._url, self._recipe, self._fingerprint, part, known, self._timeout)
            for part in cut(sources, self._size)
        )
        with closing(in_order(describe_chunk, arguments)) as chunks:
            for name, outcomes in chunks:
                for row, outcome in enumerate(outcomes):
                    if outcome.size is not None:
                        self.places[outcome.source.origin] = Place(name, row)
                    yield outcome


def describe_chunk(
    url: str, recipe: Recipe, fingerprint: str, sources: list[Source], known: frozenset[str], timeout: float
) -> tuple[str, list[Outcome]]:
    """Describe sources into their file, unless it is there: its name, and the outcomes without what is in it.

    Runs on a node. Raises CollectionError where that has other weights or learned parts than `fingerprint` says.
    """
    files, name = Files(url), chunk_name(fingerprint, sources, known)
    if not files.exists(name):
        describer = _describer(recipe, fingerprint)
        with (
            closing(outcomes_of(describer, sources, known, 1, timeout)) as outcomes,
            closing(described(describer, outcomes)) as pairs,
        ):
            data = pack(pairs)
        files.write(name, data)
    else:
        data = files.read(name)
    return name, Chunk(data, f"{files.url}/{name}", recipe).outcomes()


@lru_cache(maxsize=1)
def _describer(recipe: Recipe, fingerprint: str) -> Describer:
    """One a process, since a network takes seconds to load."""
    describer = Describer(recipe)
    if describer.fingerprint != fingerprint:
        raise CollectionError(
            f"a node has other weights or learned parts of recipe {recipe.name} than the one that indexes; put the "
            "same files and the same version of resight on all nodes"
        )
    return describer
