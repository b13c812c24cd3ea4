"""A collection's folder: the catalogue, the logs it points into, the codebook and the inverted file.

Every write goes to the logs first, is synced, and exists from the moment the catalogue's transaction commits. So a
crash at any moment leaves the last committed state, and readers see only committed states. One process writes at a
time; any number read.
"""

import fcntl
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from resight.describe.description import Description
from resight.embedding.codebook import Codebook
from resight.errors import CollectionError, RecipeError
from resight.local.asmk import Encoding
from resight.local.features import LocalFeatures
from resight.local.hamming_filter import Signer
from resight.local.word_filter import WordFilter
from resight.recipes.local_stages import LocalStage
from resight.recipes.recipe import Recipe
from resight.store import metadata
from resight.store.catalogue import FILE, Catalogue
from resight.store.facts import Value
from resight.store.inverted import Segment, merged, write_segment
from resight.store.log import LogReader, LogWriter, sync_folder
from resight.store.qdrant_engine import EngineFacts, QdrantEngine
from resight.store.records import pack_features, record_length, unpack_features
from resight.store.vector_index import IndexChoice, VectorEngine, VectorIndex
from resight.store.word_filters import word_filter

_FEATURES, _VECTORS, _LOCK = "features.log", "vectors.log", "lock"
_TOGETHER = 64  # images whose descriptors are assigned in one go, which is faster and bounds memory
_SPARSE = 64  # ids for each image there is, above which their table by id is not worth its memory
_MERGE = 4  # segments of a like size that are merged into one


@dataclass(frozen=True, eq=False)
class New:
    """An image to be stored: where it is, what its bytes were, its description, and what it says of itself (EXIF).

    id: one above all that were given before, where the collection is a part of one that gives the ids; None: the next.
    """

    origin: str
    digest: str
    bytes: int
    modified_ns: int
    description: Description
    metadata: Mapping[str, Value] = field(default_factory=dict)
    id: int | None = None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One committed state in memory: N images by ascending id, and where their records lie (−1: none).

    words: how many postings each has in the segments. signer: beside the codebook, where the recipe has [hamming].
    index: over global descriptors, of this state or an earlier one, where there is one; a vector database is asked at
        its first use.
    """

    ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    features_at: NDArray[np.int64]
    features: NDArray[np.int64]
    words_at: NDArray[np.int64]
    words: NDArray[np.int64]
    vectors_at: NDArray[np.int64]
    segments: tuple[Segment, ...]
    codebook: Codebook | None
    signer: Signer | None
    word_log: LogReader
    index: VectorEngine | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> "Snapshot":
        """The same state with only the images at these ascending positions."""
        arrays = ("ids", "sizes", "features_at", "features", "words_at", "words", "vectors_at")
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})

    def positions(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Where ids are in `ids`; −1 for those of images that are not there."""
        if len(self) == 0:
            return np.full(len(ids), -1, np.int64)
        if len(self) * _SPARSE < self.ids[-1]:
            place = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
            return np.where(self.ids[place] == ids, place, -1)
        return np.take(self._positions, ids, mode="clip")

    @cached_property
    def _positions(self) -> NDArray[np.int64]:
        """By id, −1 at both ends. A search looks up an id for every posting it reads, so this is a table."""
        table = np.full(int(self.ids[-1]) + 2, -1, np.int64)  # ids begin at 1
        table[self.ids] = np.arange(len(self.ids))
        return table


class Store:
    """The folder of a collection. Use as a context manager; a writer holds the folder's lock until it ends."""

    def __init__(self, folder: Path, *, write: bool) -> None:
        self.folder = folder
        self.write = write
        self.catalogue = Catalogue(folder, write=write)
        self._lock: BinaryIO | None = None
        self._encoder: tuple[int, WordFilter] | None = None
        try:
            self._lock = _lock(folder) if write else None
            self.recipe = Recipe.model_validate_json(self.catalogue.get("recipe"))
            if write:
                self._sweep()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, folder: Path, recipe: Recipe, fingerprint: str) -> Self:
        """An empty collection in a new or empty folder."""
        meta = {"recipe": recipe.model_dump_json(by_alias=True), "fingerprint": fingerprint, "generation": 0}
        _check_empty(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
            with _lock(folder):
                _check_empty(folder)
                Catalogue.create(folder, meta)
        return cls(folder, write=True)

    def close(self) -> None:
        """Release the lock and the files."""
        self.catalogue.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def generation(self) -> int:
        """Counts the codebooks: 0 before the first one is learned."""
        return int(self.catalogue.get("generation"))

    @property
    def needs_codebook(self) -> bool:
        """Whether the recipe works with visual words."""
        return self.recipe.codebook is not None

    def codebook_path(self, generation: int) -> Path:
        """Where the codebook of a generation lies."""
        return self.folder / f"codebook-{generation}.safetensors"

    def signer_path(self, generation: int) -> Path:
        """Where what [hamming] learned for the codebook of a generation lies."""
        return self.folder / f"hamming-{generation}.safetensors"

    def learned(self, generation: int) -> tuple[Codebook, Signer | None]:
        """The codebook of a generation, and the signer of a recipe with [hamming]; CollectionError if damaged."""
        try:
            codebook = Codebook.load(self.codebook_path(generation))
            if self.recipe.hamming is None:
                return codebook, None
            return codebook, Signer.load(self.signer_path(generation), codebook)
        except RecipeError as error:
            raise CollectionError(f"{error}; `resight refit` learns a new one") from error

    def snapshot(self) -> Snapshot:
        """The last committed state. Raises CollectionError where its learned parts or segments are damaged."""
        with self.catalogue.snapshot():
            table = self.catalogue.table(
                "SELECT id, width, height, ifnull(features_at, -1), ifnull(features, 0), ifnull(words_at, -1),"
                " ifnull(words, 0), ifnull(vector_at, -1) FROM images ORDER BY id",
                columns=8,
            )
            names = self.catalogue.rows("SELECT name FROM segments ORDER BY name")
            generation = self.generation
            # Opened while no writer can commit, and so delete, what takes their place.
            segments = tuple(Segment.open(self.folder / name) for (name,) in names)
            codebook, signer = self.learned(generation) if generation else (None, None)
            word_log = self.words_log()
            index = self.index()
        if codebook is not None:
            code_bytes = word_filter(self.recipe, codebook, signer).code_bytes
            for (name,), segment in zip(names, segments, strict=True):
                if len(segment) and (segment.codes.shape[1] != code_bytes or segment.words[-1] >= len(codebook)):
                    raise CollectionError(f"{self.folder / name}: is damaged; `resight refit` rebuilds it")
        return Snapshot(
            ids=table[:, 0],
            sizes=table[:, 1:3].astype(np.int32),
            features_at=table[:, 3],
            features=table[:, 4],
            words_at=table[:, 5],
            words=table[:, 6],
            vectors_at=table[:, 7],
            segments=segments,
            codebook=codebook,
            signer=signer,
            word_log=word_log,
            index=index,
        )

    def engine(self) -> QdrantEngine | None:
        """The vector database that the collection is searched through, not yet connected to, or None."""
        facts = self.catalogue.get("engine")
        return None if facts is None else QdrantEngine(EngineFacts(**facts), str(self.catalogue.get("fingerprint")))

    def set_engine(self, facts: EngineFacts | None) -> None:
        """Search through a vector database from now on, or no longer; an index that the collection has is given up."""
        with self.catalogue.transaction():
            self.catalogue.set("engine", None if facts is None else asdict(facts))
            self.catalogue.set("index", None)
        self._sweep()

    def index(self) -> VectorEngine | None:
        """The engine or the index over global descriptors, or None. Raises CollectionError where it is damaged."""
        engine = self.engine()
        if engine is not None:
            return engine
        facts = self.catalogue.get("index")
        if facts is None:
            return None
        return VectorIndex.open(self.folder / facts["folder"], IndexChoice(**facts["choice"]))

    def set_index(self, index: VectorIndex | None, trained_on: int) -> None:
        """Make an index the collection's, in place of the one it has; searches that use that one go on with it.

        trained_on: how many images the collection had when it was trained.
        """
        number, facts = int(self.catalogue.get("index_number") or 0) + 1, None
        if index is not None:
            folder = self.folder / f"index-{number:08}"
            facts = {
                "folder": folder.name,
                "choice": asdict(index.choice),
                "images": len(index),
                "trained_on": trained_on,
                "bytes": index.bytes,
                "crc": index.save(folder),
            }
        with self.catalogue.transaction():
            self.catalogue.set("index_number", number)
            self.catalogue.set("index", facts)
        self._sweep()

    def features_log(self) -> LogReader:
        """Reads the records of local features."""
        return LogReader(self.folder / _FEATURES)

    def vectors_log(self) -> LogReader:
        """Reads the global descriptors."""
        return LogReader(self.folder / _VECTORS)

    def words_log(self) -> LogReader:
        """Reads the visual words of the current codebook."""
        return LogReader(self._words_path(self.generation))

    def add(self, new: Sequence[New], failures: Sequence[tuple[str, str, int, int]], codebook: Codebook | None) -> None:
        """Store images and failures (origin, reason, bytes, modified_ns) together, durably, or not at all.

        A known origin is replaced; the facts that were given to it stay. With a codebook the images can be searched at
        once; without, they wait for it.
        """
        end = self.catalogue.get
        with (
            LogWriter(self.folder / _FEATURES, end("features_end") or 0) as features,
            LogWriter(self.folder / _VECTORS, end("vectors_end") or 0) as vectors,
        ):
            records = [_append(features, vectors, item.description) for item in new]
            features.sync()
            vectors.sync()
            sync_folder(self.folder)
            with self.catalogue.transaction() as db:
                gone = [(item.origin,) for item in new] + [(failure[0],) for failure in failures]
                given = metadata.given_at(db, [item.origin for item in new])
                db.executemany("DELETE FROM images WHERE origin = ?", gone)
                db.executemany("DELETE FROM failures WHERE origin = ?", gone)
                db.executemany("INSERT INTO failures VALUES (?, ?, ?, ?)", failures)
                ids: list[Any] = [
                    db.execute(
                        "INSERT INTO images (id, origin, digest, bytes, modified_ns, width, height, features_at,"
                        " features, features_crc, vector_at, vector_crc) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                        (
                            item.id,
                            item.origin,
                            item.digest,
                            item.bytes,
                            item.modified_ns,
                            *item.description.size,
                            *record,
                        ),
                    ).lastrowid
                    for item, record in zip(new, records, strict=True)
                ]
                for item, image in zip(new, ids, strict=True):
                    metadata.describe(db, image, item.metadata, given.get(item.origin, ()))
                self.catalogue.set("features_end", features.end)
                self.catalogue.set("vectors_end", vectors.end)
                if codebook is not None and new:
                    local = [item.description.local for item in new if item.description.local is not None]
                    self._encode_into(codebook, ids, local)
        self._sweep()

    def pending(self) -> int:
        """Images that cannot be searched until the codebook is learned."""
        if not self.needs_codebook:
            return 0
        return int(self.catalogue.rows("SELECT count(*) FROM images WHERE words_at IS NULL")[0][0])

    def encode_pending(self, codebook: Codebook, batch: int = 256) -> Iterator[int]:
        """Give visual words to images that have none, a durable batch at a time; yields how many each was."""
        log = self.features_log()
        while rows := self.catalogue.rows(
            "SELECT id, features_at, features FROM images WHERE words_at IS NULL ORDER BY id LIMIT ?",
            (batch,),
        ):
            local = [read_features(log, at, count, self.recipe.local) for _, at, count in rows]
            with self.catalogue.transaction():
                self._encode_into(codebook, [row[0] for row in rows], local)
            self._sweep()
            yield len(rows)

    def start_generation(self, codebook: Codebook, facts: dict[str, Any], signer: Signer | None = None) -> None:
        """Make a codebook the collection's. All images wait to be encoded with it, in ``encode_pending``.

        signer: fitted to the codebook's words; ValueError where the recipe has [hamming] and there is none.
        """
        word_filter(self.recipe, codebook, signer)
        generation = self.generation + 1
        codebook.save(self.codebook_path(generation))
        if signer is not None:
            signer.save(self.signer_path(generation))
        with self.catalogue.transaction() as db:
            db.execute("UPDATE images SET words_at = NULL, words = NULL, words_crc = NULL")
            db.execute("DELETE FROM segments")
            self.catalogue.set("generation", generation)
            self.catalogue.set("words_end", 0)
            self.catalogue.set("codebook", facts)
        self._sweep()

    def remove(self, ids: Sequence[int]) -> None:
        """Forget images. Their records stay in the logs, where nothing points at them any more."""
        with self.catalogue.transaction() as db:
            db.executemany("DELETE FROM images WHERE id = ?", [(i,) for i in ids])

    def _encode_into(self, codebook: Codebook, ids: Sequence[Any], local: Sequence[LocalFeatures]) -> None:
        encodings: list[Encoding] = []
        encoder = self._encoder_for(codebook)
        with LogWriter(self._words_path(self.generation), self.catalogue.get("words_end") or 0) as log:
            for start in range(0, len(ids), _TOGETHER):
                part = [f.descriptors.astype(np.float32) for f in local[start : start + _TOGETHER]]
                words = codebook.assign(np.concatenate(part))
                ends = np.cumsum([len(descriptors) for descriptors in part])
                split = np.split(words, ends[:-1])
                for image, descriptors, own in zip(ids[start : start + _TOGETHER], part, split, strict=True):
                    encodings.append(encoder.encode(descriptors, own))
                    at, crc = log.append(own[:, 0].astype("<i4").tobytes())
                    self.catalogue.run(
                        "UPDATE images SET words_at = ?, words = ?, words_crc = ? WHERE id = ?",
                        (at, len(encodings[-1]), crc, image),
                    )
            log.sync()
            self.catalogue.set("words_end", log.end)
        self._add_segment(Segment.build(ids, encodings, encoder.code_bytes))

    def _encoder_for(self, codebook: Codebook) -> WordFilter:
        """What encodes with the codebook of this generation, loaded once a generation."""
        generation = self.generation
        if self._encoder is None or self._encoder[0] != generation:
            signer = self.learned(generation)[1] if self.recipe.hamming is not None else None
            self._encoder = generation, word_filter(self.recipe, codebook, signer)
        return self._encoder[1]

    def _add_segment(self, segment: Segment) -> None:
        self._insert_segment([segment], len(segment))
        while names := self._mergeable():
            segments = [Segment.open(self.folder / name) for name in names]
            live = self.catalogue.table("SELECT id FROM images", 1)[:, 0]
            alive = np.zeros(max(int(s.images.max(initial=0)) for s in segments) + 1, bool)
            alive[live[live < len(alive)]] = True
            self._insert_segment(merged(segments, alive.__getitem__), None)
            marks = ",".join("?" * len(names))
            self.catalogue.run(f"DELETE FROM segments WHERE name IN ({marks})", names)

    def _insert_segment(self, parts: Any, postings: int | None) -> None:
        number = int(self.catalogue.get("segment") or 0) + 1
        name = f"inverted-{number:08}"
        shutil.rmtree(self.folder / name, ignore_errors=True)
        crc = write_segment(self.folder / name, parts)
        if postings is None:
            postings = len(Segment.open(self.folder / name))
        self.catalogue.set("segment", number)
        self.catalogue.run("INSERT INTO segments VALUES (?, ?, ?)", (name, postings, crc))

    def _mergeable(self) -> list[str]:
        """The newest segments, once there are enough of a like size: amortised, each posting moves log₄ times."""
        rows = self.catalogue.rows("SELECT name, postings FROM segments ORDER BY name DESC")
        tail = [name for name, postings in rows if postings <= _MERGE * max(1, rows[0][1])]
        return tail if len(tail) >= _MERGE else []

    def _words_path(self, generation: int) -> Path:
        return self.folder / f"words-{generation}.log"

    def _sweep(self) -> None:
        """Delete what a crash or an older generation left and the catalogue does not name."""
        generation = self.generation
        named = {name for (name,) in self.catalogue.rows("SELECT name FROM segments")}
        learned = self._words_path(generation), self.codebook_path(generation), self.signer_path(generation)
        named |= {path.name for path in learned}
        if (index := self.catalogue.get("index")) is not None:
            named.add(index["folder"])
        if (function := self.catalogue.get("hash")) is not None:
            named.add(function)
        for path in self.folder.iterdir():
            ours = path.name.lstrip(".").startswith(("inverted-", "words-", "codebook-", "hamming-", "index-", "hash-"))
            if ours and path.name not in named:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_features(log: LogReader, at: int, count: int, stage: LocalStage | None) -> LocalFeatures:
    """The local features of an image, from where the catalogue says they are. stage: the recipe's [local] table."""
    if stage is None:
        raise ValueError("the recipe has no local features")
    record = log.record(at, record_length(count, stage.dimension, stage.stored, stage.colours))
    return unpack_features(record, count, stage.dimension, stage.stored, stage.colours)


def _append(features: LogWriter, vectors: LogWriter, description: Description) -> tuple[int | None, ...]:
    """features_at, features, features_crc, vector_at, vector_crc of the catalogue."""
    local: tuple[int | None, int | None, int | None] = None, None, None
    if description.local is not None:
        at, crc = features.append(pack_features(description.local))
        local = at, len(description.local), crc
    if description.global_descriptor is None:
        return *local, None, None
    return *local, *vectors.append(description.global_descriptor.astype("<f4").tobytes())


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what a full or failing disk raises into a CollectionError; what was committed before stays."""
    try:
        yield
    except OSError as error:
        raise CollectionError(
            f"{folder}: cannot be written ({error.strerror or error}); what was committed before is kept. Make room "
            "and run the same command again: it goes on from there"
        ) from error


def _check_empty(folder: Path) -> None:
    """CollectionError unless a collection can be made here; what an interrupted making left does not count."""
    unfinished = (_LOCK, f"{FILE}.new", f"{FILE}.new-journal")
    if folder.exists() and (not folder.is_dir() or any(p.name not in unfinished for p in folder.iterdir())):
        raise CollectionError(f"{folder}: is not an empty folder; choose another name for the collection")


def _lock(folder: Path) -> BinaryIO:
    try:
        file = (folder / _LOCK).open("ab")
    except OSError as error:
        raise CollectionError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise CollectionError(f"{folder}: another process is writing to it; wait for it or stop it") from error
    return file
