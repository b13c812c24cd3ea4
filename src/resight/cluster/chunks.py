"""Photos in chunks, each described by one task into one file, whose name says what it was made from.

So a task that finds its file does nothing, whether it was retried, or a run was interrupted and starts again.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from resight.describe.description import Description
from resight.errors import CollectionError
from resight.images.sources import Source
from resight.recipes.recipe import Recipe
from resight.store.records import pack_features, record_length, unpack_features
from resight.store.workers import Outcome

FOLDER = "chunks"


def cut(sources: Sequence[Source], size: int) -> Iterator[list[Source]]:
    """Runs of about `size` sources, 2·size at most.

    A run ends where the origin's checksum says so: photos that come or go change only the run that they are in, and
    of an interrupted indexing the others are found again.
    """
    run: list[Source] = []
    for source in sources:
        run.append(source)
        if zlib.crc32(source.origin.encode()) % size == 0 or len(run) == 2 * size:
            yield run
            run = []
    if run:
        yield run


def chunk_name(fingerprint: str, sources: Sequence[Source], known: frozenset[str]) -> str:
    """The file that describes these sources. fingerprint: of the recipe; known: contents that are not described."""
    stamps = [[s.origin, s.bytes, s.modified_ns] for s in sources]
    text = json.dumps([fingerprint, sorted(known), stamps])
    return f"{FOLDER}/{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


def pack(pairs: Iterable[tuple[Outcome, NDArray[np.float32] | None]]) -> bytes:
    """Outcomes and their vectors as a safetensors file: rows of JSON, records of features, N×D float32 vectors."""
    rows, records, end = [], [], 0
    vectors: list[NDArray[np.float32]] = []
    for outcome, vector in pairs:
        row: dict[str, Any] = {
            "source": asdict(outcome.source),
            "digest": outcome.digest,
            "size": outcome.size,
            "reason": outcome.reason,
            "metadata": dict(outcome.metadata),
            "features": None,
            "vector": None,
        }
        if outcome.local is not None:
            records.append(pack_features(outcome.local))
            row["features"] = [end, len(outcome.local)]
            end += len(records[-1])
        if vector is not None:
            row["vector"] = len(vectors)
            vectors.append(vector)
        rows.append(row)
    tensors: dict[str, NDArray[Any]] = {
        "rows": np.frombuffer(json.dumps(rows).encode(), np.uint8),
        "features": np.frombuffer(b"".join(records), np.uint8),
        "vectors": np.stack(vectors) if vectors else np.empty((0, 0), np.float32),
    }
    return save(tensors)


class Chunk:
    """What is in a file that ``pack`` made. name: of the file, for errors."""

    def __init__(self, data: bytes, name: str, recipe: Recipe) -> None:
        try:
            tensors = load(data)
            self._rows = json.loads(tensors["rows"].tobytes())
            self._features, self._vectors = tensors["features"], tensors["vectors"]
        except (SafetensorError, KeyError, ValueError) as error:
            raise CollectionError(f"{name}: is damaged ({error}); delete it and run the same command again") from error
        self._recipe = recipe

    def outcomes(self) -> list[Outcome]:
        """One for each source, without features."""
        return [
            Outcome(
                Source(**row["source"]),
                row["digest"],
                None if row["size"] is None else (row["size"][0], row["size"][1]),
                reason=row["reason"],
                metadata=row["metadata"],
            )
            for row in self._rows
        ]

    def description(self, row: int) -> Description:
        """Of the image in a row, which was described; ValueError otherwise."""
        facts = self._rows[row]
        if facts["size"] is None:
            raise ValueError(f"{facts['source']['origin']} was not described")
        local, stage = None, self._recipe.local
        if facts["features"] is not None and stage is not None:
            at, count = facts["features"]
            length = record_length(count, stage.dimension, stage.stored, stage.colours)
            record = self._features[at : at + length]
            local = unpack_features(record, count, stage.dimension, stage.stored, stage.colours)
        vector = None if facts["vector"] is None else self._vectors[facts["vector"]]
        return Description((facts["size"][0], facts["size"][1]), vector, local)
