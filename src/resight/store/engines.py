"""Searching a collection through a vector database that somebody already runs: connecting, looking, disconnecting."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from resight.errors import CollectionError
from resight.store.indexing import Progress
from resight.store.qdrant_connection import EngineError, checked_url
from resight.store.qdrant_engine import Codes, EngineFacts, QdrantEngine
from resight.store.store import Store
from resight.store.vector_indexing import catch_up, check_indexable, dimension


@dataclass(frozen=True)
class EngineState:
    """A vector database beside the collection. described: images with a vector. held: vectors that it holds.

    lacking: images that are newer than it, which searches compare one by one.
    """

    url: str
    name: str
    codes: str
    depth: int
    described: int
    held: int
    lacking: int

    @property
    def behind(self) -> bool:
        """Whether ``catch_up`` has something to do."""
        return self.lacking > 0 or self.held != self.described


def connect_engine(
    store: Store,
    url: str,
    name: str,
    report: Callable[[Progress], None],
    *,
    codes: Codes = "none",
    depth: int = 5,
    insecure: bool = False,
) -> EngineState:
    """Search a collection through the Qdrant collection of a name, made where there is none, and fill it.

    Once it is known to be ours it is the collection's, and its index is given up; interrupted filling goes on with
    ``sync_engine``. Connecting the same again changes depth and insecure. Raises EngineError where it holds something
    else, and CollectionError where the recipe's descriptors do not suit it or another is connected.
    """
    check_indexable(store)
    facts = EngineFacts(checked_url(url), name, _identity(store), dimension(store), codes, depth, insecure)
    known = store.engine()
    if known is not None:
        if (known.facts.url, known.facts.name) != (facts.url, facts.name):
            raise CollectionError(
                f"{store.folder}: is searched through {known.facts.name} at {known.facts.url}; --drop it first"
            )
        facts = replace(facts, newest=known.facts.newest)
    engine = QdrantEngine(facts, _fingerprint(store))
    if engine.exists():
        engine.held()
    else:
        engine.create()
    store.set_engine(facts)
    return sync_engine(store, report)


def sync_engine(store: Store, report: Callable[[Progress], None]) -> EngineState:
    """Bring the vector database up to date with the collection, by comparing all ids."""
    catch_up(store, _connected(store), report, thorough=True)
    return engine_state(store)


def engine_state(store: Store) -> EngineState:
    """How the vector database stands. Raises EngineError where it does not answer or is not the collection's."""
    engine, snapshot = _connected(store), store.snapshot()
    held, ids = engine.held(), snapshot.ids[snapshot.vectors_at >= 0]
    facts = engine.facts
    lacking = int(np.count_nonzero(ids > held.newest))
    return EngineState(facts.url, facts.name, facts.codes, facts.depth, len(ids), held.count, lacking)


def drop_engine(store: Store, *, delete: bool = False) -> None:
    """Search without the vector database from now on. delete: also what it holds; EngineError if that is another's."""
    engine = _connected(store)
    if delete:
        engine.drop()
    store.set_engine(None)


def check_free(store: Store) -> None:
    """Raises CollectionError where a vector database is in the place of an index."""
    engine = store.engine()
    if engine is not None:
        raise CollectionError(
            f"{store.folder}: is searched through {engine.facts.name} at {engine.facts.url}, and an index beside it "
            f"would not be used; `resight engine {store.folder} --drop` first"
        )


def _connected(store: Store) -> QdrantEngine:
    engine = store.engine()
    if engine is None:
        raise EngineError(f"{store.folder}: is searched through no vector database; --url and --name connect one")
    return engine


def _fingerprint(store: Store) -> str:
    return str(store.catalogue.get("fingerprint"))


def _identity(store: Store) -> str:
    """Tells the collection from others, whatever they hold. Drawn at the first need, and kept."""
    identity = store.catalogue.get("identity")
    if identity is None:
        identity = secrets.token_hex(16)
        with store.catalogue.transaction():
            store.catalogue.set("identity", identity)
    return str(identity)
