"""Building the index over a collection's global descriptors, and keeping up with what is added and removed."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError
from resight.store.indexing import Progress
from resight.store.qdrant_connection import EngineError
from resight.store.qdrant_engine import QdrantEngine
from resight.store.store import Snapshot, Store
from resight.store.vector_index import IndexChoice, VectorIndex

_BLOCK = 1 << 16  # vectors read at a time
_FRESH = 1 << 14  # images that are compared one by one before they are put into the index

Blocks = Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]


def vector_blocks(store: Store, snapshot: Snapshot, above: int = -1) -> Blocks:
    """Ids and N×D vectors of a snapshot's images with an id above `above` that have a vector, in the order of ids."""
    length = 4 * dimension(store)
    log = store.vectors_log()
    rows = np.flatnonzero((snapshot.ids > above) & (snapshot.vectors_at >= 0))
    places = snapshot.vectors_at[rows] // length
    while len(rows):
        # Vectors lie in the order of ids, with gaps where images were removed.
        count = int(np.searchsorted(places, places[0] + _BLOCK))
        first, last = int(places[0]), int(places[count - 1])
        block = log.copied(first * length, (last + 1 - first) * length).view("<f4").reshape(last + 1 - first, -1)
        yield snapshot.ids[rows[:count]], block[places[:count] - first]
        rows, places = rows[count:], places[count:]


def vector_sample(store: Store, snapshot: Snapshot, count: int, seed: int) -> NDArray[np.float32]:
    """At most `count` of a snapshot's vectors, drawn with a seed, in the order of ids; S×D."""
    part = snapshot.take(draw_images(snapshot.vectors_at >= 0, count, seed))
    return np.concatenate([np.empty((0, dimension(store)), np.float32), *(v for _, v in vector_blocks(store, part))])


def draw_images(with_vector: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` of the images, by ascending id, that have a vector: their positions, ascending."""
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(with_vector))[:count]
    return np.sort(drawn)


def dimension(store: Store) -> int:
    """D, of the one global descriptor that each image has."""
    stage = store.recipe.global_
    if stage is None:
        raise ValueError(f"recipe {store.recipe.name} has no global descriptors")
    return sum(stage.lengths)


def check_indexable(store: Store) -> None:
    """Raises CollectionError where the recipe does not search by the cosine of one descriptor an image, and no more."""
    stage = store.recipe.global_
    if store.recipe.filter != "global" or stage is None or stage.late is not None:
        raise CollectionError(
            f"{store.folder}: recipe {store.recipe.name} does not search by one global descriptor an image, and only "
            "those are put into an index; its own search stays as it is"
        )
    if store.recipe.rerank:
        raise CollectionError(
            f"{store.folder}: recipe {store.recipe.name} re-ranks all images, so that an index saves it nothing; "
            "choose a recipe without [[rerank]]"
        )
    if store.recipe.adapters is not None:
        raise CollectionError(
            f"{store.folder}: recipe {store.recipe.name} has [adapters], among which each search chooses, and an index "
            "is over one kind of vectors; its own search stays as it is"
        )


def build_index(store: Store, snapshot: Snapshot, choice: IndexChoice, *, seed: int = 0) -> VectorIndex:
    """An index over a snapshot's images, made from a stream; CollectionError where it does not suit them."""
    check_indexable(store)
    sample = vector_sample(store, snapshot, choice.sample, seed)
    try:
        return VectorIndex.build(choice, sample, vector_blocks(store, snapshot), seed=seed)
    except ValueError as error:
        raise CollectionError(f"{store.folder}: {error}") from error


def refresh_index(store: Store, report: Callable[[Progress], None]) -> str | None:
    """Put new images into the collection's index, or leave out removed ones, once there are enough of either.

    Searches meanwhile, and for as long as they are open, use the index that was there before. A vector database is
    told of all at once; where that fails nothing is lost, and what to do is returned, in words.
    """
    index = store.index()
    if isinstance(index, QdrantEngine):
        try:
            catch_up(store, index, report)
        except EngineError as error:
            return (
                f"The collection is up to date, its vector database is not: {error}. "
                f"`resight engine {store.folder} --sync` catches up."
            )
    if not isinstance(index, VectorIndex):
        return None
    snapshot = store.snapshot()
    held = snapshot.ids[(snapshot.ids <= index.newest) & (snapshot.vectors_at >= 0)]
    fresh = int(np.count_nonzero((snapshot.ids > index.newest) & (snapshot.vectors_at >= 0)))
    if 2 * len(held) < len(index):
        made = index.without(_counted(vector_blocks(store, snapshot), len(held) + fresh, report))
    elif fresh > _FRESH:
        made = index.extended(_counted(vector_blocks(store, snapshot, index.newest), fresh, report))
    else:
        return None
    store.set_index(made, int(store.catalogue.get("index")["trained_on"]))
    return None


def catch_up(store: Store, engine: QdrantEngine, report: Callable[[Progress], None], *, thorough: bool = False) -> None:
    """Give a vector database the images it lacks, and take out those that are gone.

    thorough: also make its collection where there is none, and compare all ids even where their number is right.
    What was confirmed before an interruption is not sent again. Raises EngineError.
    """
    if thorough and not engine.exists():
        engine.create()
    snapshot, newest = store.snapshot(), engine.held().newest
    described = snapshot.ids[snapshot.vectors_at >= 0]
    fresh = int(np.count_nonzero(described > newest))
    for ids, vectors in _counted(vector_blocks(store, snapshot, newest), fresh, report):
        engine.put(ids, vectors)
        engine.confirm(int(ids[-1]))
        store.set_engine(replace(engine.facts, newest=int(ids[-1])))
    if thorough or engine.held().count != len(described):
        there = engine.ids()
        engine.delete(np.setdiff1d(there, described))
        lacking = snapshot.take(snapshot.positions(np.setdiff1d(described, there)))
        for ids, vectors in vector_blocks(store, lacking):
            engine.put(ids, vectors)


def _counted(blocks: Blocks, total: int, report: Callable[[Progress], None]) -> Blocks:
    done = 0
    for ids, vectors in blocks:
        report(Progress("filling the index", done, total))
        yield ids, vectors
        done += len(ids)
    report(Progress("filling the index", done, total))
