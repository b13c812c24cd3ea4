"""Global descriptors in a Qdrant collection that somebody else runs: a VectorEngine that finds candidates there.

It holds image ids and vectors, and nothing else: no names, no metadata, no local features. The vectors stay in the
collection's log as well, which is what the candidates are compared with; so it may lag behind, be lost or be filled
anew at any time, and no result is ever worse than the candidates it misses.

How far it has been filled is written down twice, there (in the metadata of the Qdrant collection) and in the catalogue,
and the lower one holds. So neither a server that was restored from an older state nor a restored catalogue, which will
give ids anew that the server knows with other vectors, hides an image.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from resight.store.qdrant_connection import EngineError, answering, checked_url, connect
from resight.store.vector_index import IndexChoice

Codes = Literal["binary", "scalar", "none"]

_FLOATS = 1 << 18  # in one request, about 6 MB of JSON; a server takes 32 MB unless told otherwise
_IDS = 10_000  # in one request
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OWNER, _FINGERPRINT, _CODES, _NEWEST = "resight_owner", "resight_fingerprint", "resight_codes", "resight_newest"


@dataclass(frozen=True)
class EngineFacts:
    """What a collection remembers of its vector database. The token is not among it.

    name: of the Qdrant collection. owner: tells this resight collection from others. dimension: D. codes: what Qdrant
    searches instead of the vectors. depth: as in ``IndexChoice``. insecure: a token may travel unencrypted.
    newest: the highest id up to which the server has confirmed all images, −1 for none.
    """

    url: str
    name: str
    owner: str
    dimension: int
    codes: Codes = "none"
    depth: int = 5
    insecure: bool = False
    newest: int = -1

    def __post_init__(self) -> None:
        checked_url(self.url)
        if not _NAME.fullmatch(self.name):
            raise EngineError(f"--name {self.name}: a name is letters, digits, and _ . - between them")
        if self.codes not in get_args(Codes):
            raise EngineError(f"--codes {self.codes}: choose one of {', '.join(get_args(Codes))}")
        if self.dimension < 1:
            raise ValueError(f"dimension must be at least 1, not {self.dimension}")
        IndexChoice(self.codes, self.depth)


@dataclass(frozen=True)
class Held:
    """What the Qdrant collection holds. newest: as in ``EngineFacts``, the lower of both. count: of its vectors."""

    newest: int
    count: int


class QdrantEngine:
    """Asks the server at its first use, and again for nothing that it has said: images that come later are not in it.

    Codes are never compared exactly by the server (``rescore``): the depth is the oversampling, and the exact
    comparison is made here, with the collection's own vectors.

    fingerprint: of the collection's recipe.
    """

    def __init__(self, facts: EngineFacts, fingerprint: str) -> None:
        self.facts, self._fingerprint = facts, fingerprint
        self.choice = IndexChoice(f"qdrant, {'no' if facts.codes == 'none' else facts.codes} codes", facts.depth)

    @cached_property
    def _client(self) -> Any:
        return connect(self.facts.url, insecure=self.facts.insecure)

    @cached_property
    def _seen(self) -> Held:
        return self.held()

    @property
    def newest(self) -> int:
        """As ``VectorEngine.newest``, when it was first asked."""
        with _searching():
            return self._seen.newest

    def __len__(self) -> int:
        with _searching():
            return self._seen.count

    def candidates(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """As ``VectorEngine.candidates``, less those that came since. queries: ℓ2-normalised."""
        wanted = min(k, len(self))
        found = np.full((len(queries), k), -1, np.int64)
        if wanted == 0:
            return found
        step = max(1, _FLOATS // queries.shape[1])
        with _searching():
            for start in range(0, len(queries), step):
                for row, ids in enumerate(self._asked(queries[start : start + step], wanted), start):
                    found[row, : len(ids)] = ids
        return found

    def _asked(self, queries: NDArray[np.float32], k: int) -> list[list[int]]:
        from qdrant_client import models

        quantised = None if self.facts.codes == "none" else models.QuantizationSearchParams(rescore=False)
        requests = [
            models.QueryRequest(
                query=query, limit=k, params=models.SearchParams(quantization=quantised), with_payload=False
            )
            for query in queries.tolist()
        ]
        with answering(self.facts.url):
            answers = self._client.query_batch_points(self.facts.name, requests)
        newest = self.newest
        return [[p.id for p in answer.points if _is_image(p.id) and p.id <= newest] for answer in answers]

    def exists(self) -> bool:
        """Whether there is a Qdrant collection of its name, whoever's."""
        with answering(self.facts.url):
            return bool(self._client.collection_exists(self.facts.name))

    def held(self) -> Held:
        """What is there now. Raises EngineError where there is nothing, or another's."""
        if not self.exists():
            raise EngineError(f"{self.facts.url}: has no collection {self.facts.name}; `--sync` makes it anew")
        with answering(self.facts.url):
            config = self._client.get_collection(self.facts.name).config
            count = self._client.count(self.facts.name, exact=True).count
        self._check(config)
        return Held(min(self.facts.newest, int(config.metadata[_NEWEST])), int(count))

    def create(self) -> None:
        """Make an empty Qdrant collection. Raises EngineError where the server is older than collections' metadata."""
        from qdrant_client import models

        codes = self.facts.codes
        quantised: Any = None
        if codes == "binary":
            quantised = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
        elif codes == "scalar":
            int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
            quantised = models.ScalarQuantization(scalar=int8)
        with answering(self.facts.url):
            self._client.create_collection(
                self.facts.name,
                # Beside codes nobody reads the vectors there.
                vectors_config=models.VectorParams(
                    size=self.facts.dimension, distance=models.Distance.DOT, on_disk=codes != "none"
                ),
                quantization_config=quantised,
                metadata={
                    _OWNER: self.facts.owner,
                    _FINGERPRINT: self._fingerprint,
                    _CODES: codes,
                    _NEWEST: -1,
                },
            )
            kept = self._client.get_collection(self.facts.name).config.metadata
            if not kept:
                self._client.delete_collection(self.facts.name)
        if not kept:
            raise EngineError(f"{self.facts.url}: keeps no metadata of a collection; Qdrant 1.16 or newer does")

    def put(self, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add or replace N×D vectors; the server has done so when this returns."""
        from qdrant_client import models

        step = max(1, _FLOATS // vectors.shape[1])
        for start in range(0, len(ids), step):
            part = slice(start, start + step)
            batch = models.Batch(ids=ids[part].tolist(), vectors=vectors[part].tolist())
            with answering(self.facts.url):
                self._client.upsert(self.facts.name, batch, wait=True)

    def confirm(self, newest: int) -> None:
        """Write down there that it holds all images up to an id."""
        with answering(self.facts.url):
            self._client.update_collection(self.facts.name, metadata={_NEWEST: newest})

    def ids(self) -> NDArray[np.int64]:
        """All ids it holds, ascending. Raises EngineError where somebody added points that can be no images."""
        parts, offset = [np.empty(0, np.int64)], None
        while True:
            with answering(self.facts.url):
                points, offset = self._client.scroll(
                    self.facts.name, limit=_IDS, offset=offset, with_payload=False, with_vectors=False
                )
            if strange := [str(point.id) for point in points if not _is_image(point.id)]:
                raise EngineError(
                    f"{self.facts.url}: its collection {self.facts.name} holds points that are not resight's, as "
                    f"{strange[0]}; delete them there, or --drop it with --delete and connect anew"
                )
            parts.append(np.array([point.id for point in points], np.int64))
            if offset is None:
                return np.sort(np.concatenate(parts))

    def delete(self, ids: NDArray[np.int64]) -> None:
        """Take vectors out."""
        from qdrant_client import models

        for start in range(0, len(ids), _IDS):
            points = models.PointIdsList(points=ids[start : start + _IDS].tolist())
            with answering(self.facts.url):
                self._client.delete(self.facts.name, points, wait=True)

    def drop(self) -> None:
        """Delete the Qdrant collection, if there is one; EngineError where it is another's."""
        if self.exists():
            self.held()
            with answering(self.facts.url):
                self._client.delete_collection(self.facts.name)

    def _check(self, config: Any) -> None:
        """EngineError unless a Qdrant collection was made by this resight collection, for such vectors."""
        facts, vectors, known = self.facts, config.params.vectors, config.metadata or {}
        what = f"{facts.url}: its collection {facts.name}"
        if not {_OWNER, _FINGERPRINT, _CODES, _NEWEST} <= known.keys():
            raise EngineError(f"{what} was not made by resight, and is left alone; choose another --name")
        if (size := getattr(vectors, "size", None)) != facts.dimension:
            raise EngineError(
                f"{what} is for {size} dimensions, and this collection's descriptors have {facts.dimension}; choose "
                "another --name"
            )
        if known[_FINGERPRINT] != self._fingerprint:
            raise EngineError(
                f"{what} holds descriptors of the recipe {known[_FINGERPRINT][:12]}, and this collection's are of "
                f"{self._fingerprint[:12]} (its fingerprint, as `resight info` shows it); choose another --name"
            )
        if known[_OWNER] != facts.owner:
            raise EngineError(f"{what} belongs to another resight collection; choose another --name")
        if known[_CODES] != facts.codes:
            raise EngineError(
                f"{what} was made with --codes {known[_CODES]}; name those, or --drop it with --delete and connect anew"
            )


def _is_image(point: int | str) -> bool:
    """Whether a point's id can be an image's; others are UUIDs and numbers of 64 bits without a sign."""
    return isinstance(point, int) and point < 1 << 63


@contextmanager
def _searching() -> Iterator[None]:
    """Says what a search can do without the server."""
    try:
        yield
    except EngineError as error:
        raise EngineError(f"{error}. --exact (exact=True) searches without it, by comparing all images") from error
