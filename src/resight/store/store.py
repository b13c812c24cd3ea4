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
from pydantic import ValidationError

from resight.describe.description import Description
from resight.embedding.codebook import Codebook
from resight.errors import CollectionError, LockedError, RecipeError
from resight.local.features import LocalFeatures
from resight.local.hamming_filter import Signer
from resight.recipes.local_stages import LocalStage
from resight.recipes.recipe import Recipe
from resight.recipes.stage import problems
from resight.store import metadata
from resight.store.catalogue import FILE, Catalogue
from resight.store.encoder import Encoder
from resight.store.facts import Value
from resight.store.inverted import Segment
from resight.store.log import LogReader, LogWriter, sync_folder
from resight.store.qdrant_engine import EngineFacts, QdrantEngine
from resight.store.records import pack_features, record_length, unpack_features
from resight.store.vector_index import IndexChoice, VectorEngine, VectorIndex
from resight.store.word_filters import word_filter

FEATURES, VECTORS = "features.log", "vectors.log"
_LOCK = "lock"
_SWEPT = ("inverted-", "words-", "codebook-", "hamming-", "index-", "hash-")
_DATA = (*_SWEPT, FEATURES, VECTORS, "codes-", "regions-", "rerank")  # all but the catalogue and the lock
DESCRIPTION = "features_at, features, features_crc, vector_at, vector_crc"
"""Columns of an image's row that say where its description lies."""
UPGRADE = "upgrade-"
_SPARSE = 64  # ids for each image there is, above which their table by id is not worth its memory


Failed = tuple[str, str, int, int]
"""A file that could not be indexed: origin, reason, bytes, modified_ns."""


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
    """The folder of a collection. Use as a context manager; a writer holds the folder's lock until it ends.

    data: where all lies but the catalogue and the lock: the same folder, or one in it that an upgrade has made.
    recipe, fingerprint: of all that is described there.
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        self.folder = folder
        self.write = write
        self.catalogue = Catalogue(folder, write=write)
        self._lock: BinaryIO | None = None
        self._encoder: tuple[int, Encoder] | None = None
        try:
            self._lock = _lock(folder) if write else None
            with self.catalogue.snapshot():
                self.recipe, self.fingerprint = self._recipe(), str(self.catalogue.get("fingerprint"))
                self._is_by = self.catalogue.get("recipe")
                self.data = self.folder / self._data
            if write:
                self.catalogue.upgrade()
                self._sweep()
                self._sweep_data()
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

    def _recipe(self) -> Recipe:
        try:
            return Recipe.model_validate_json(self.catalogue.get("recipe"))
        except ValidationError as error:
            raise CollectionError(
                f"{self.folder}: its recipe cannot be read: {problems(error, 'recipe')}; install the resight that "
                "wrote it, restore a copy, or index anew"
            ) from error

    @property
    def _data(self) -> str:
        return str(self.catalogue.get("data") or "")

    @property
    def is_outdated(self) -> bool:
        """Whether another process has upgraded the collection to another recipe since this was opened."""
        return self.data != self.folder / self._data or self.catalogue.get("recipe") != self._is_by

    def check_current(self) -> None:
        """Call inside a snapshot of the catalogue: CollectionError if what it says is not of this recipe any more."""
        if self.is_outdated:
            raise CollectionError(f"{self.folder}: was upgraded to another recipe just now; do that again")

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
        return self.data / f"codebook-{generation}.safetensors"

    def signer_path(self, generation: int) -> Path:
        """Where what [hamming] learned for the codebook of a generation lies."""
        return self.data / f"hamming-{generation}.safetensors"

    def learned(self, generation: int) -> tuple[Codebook, Signer | None]:
        """The codebook of a generation, and the signer of a recipe with [hamming]; CollectionError if damaged."""
        try:
            codebook = Codebook.load(self.codebook_path(generation))
            if self.recipe.hamming is None:
                return codebook, None
            return codebook, Signer.load(self.signer_path(generation), codebook)
        except RecipeError as error:
            raise CollectionError(f"{error}; `resight refit` learns a new one") from error

    def snapshot(self, *, index: bool = True) -> Snapshot:
        """The last committed state, with or without its index.

        Raises CollectionError where its learned parts, segments or index are damaged.
        """
        with self.catalogue.snapshot():
            self.check_current()
            table = self.catalogue.table(
                "SELECT id, width, height, ifnull(features_at, -1), ifnull(features, 0), ifnull(words_at, -1),"
                " ifnull(words, 0), ifnull(vector_at, -1) FROM images ORDER BY id",
                columns=8,
            )
            names = self.catalogue.rows("SELECT name FROM segments ORDER BY name")
            generation = self.generation
            # Opened while no writer can commit, and so delete, what takes their place.
            segments = tuple(Segment.open(self.data / name) for (name,) in names)
            codebook, signer = self.learned(generation) if generation else (None, None)
            word_log = self.words_log()
            engine = self.index() if index else None
        if codebook is not None:
            code_bytes = word_filter(self.recipe, codebook, signer).code_bytes
            for (name,), segment in zip(names, segments, strict=True):
                if len(segment) and (segment.codes.shape[1] != code_bytes or segment.words[-1] >= len(codebook)):
                    raise CollectionError(f"{self.data / name}: is damaged; `resight refit` rebuilds it")
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
            index=engine,
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
        return VectorIndex.open(self.data / facts["folder"], IndexChoice(**facts["choice"]))

    def set_index(self, index: VectorIndex | None, trained_on: int) -> None:
        """Make an index the collection's, in place of the one it has; searches that use that one go on with it.

        trained_on: how many images the collection had when it was trained.
        """
        number, facts = int(self.catalogue.get("index_number") or 0) + 1, None
        if index is not None:
            folder = self.data / f"index-{number:08}"
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
        return LogReader(self.data / FEATURES)

    def vectors_log(self) -> LogReader:
        """Reads the global descriptors."""
        return LogReader(self.data / VECTORS)

    def words_log(self) -> LogReader:
        """Reads the visual words of the current codebook."""
        return LogReader(self.words_path(self.generation))

    def add(
        self,
        new: Sequence[New],
        failures: Sequence[Failed],
        codebook: Codebook | None,
        unread: Sequence[Failed] = (),
    ) -> None:
        """Store images and failures together, durably, or not at all.

        A known origin is replaced; the facts that were given to it stay. unread: failures that say nothing of what
        their files hold, so that images of them stay. With a codebook the images can be searched at
        once; without, they wait for it.
        """
        end = self.catalogue.get
        with (
            LogWriter(self.data / FEATURES, end("features_end") or 0) as features,
            LogWriter(self.data / VECTORS, end("vectors_end") or 0) as vectors,
        ):
            records = [_append(features, vectors, item.description) for item in new]
            features.sync()
            vectors.sync()
            sync_folder(self.data)
            with self.catalogue.transaction() as db:
                gone = [(item.origin,) for item in new] + [(failure[0],) for failure in failures]
                given = metadata.given_at(db, [item.origin for item in new])
                db.executemany("DELETE FROM images WHERE origin = ?", gone)
                db.executemany("DELETE FROM failures WHERE origin = ?", [*gone, *((failed[0],) for failed in unread)])
                db.executemany(
                    "INSERT INTO failures (origin, reason, bytes, modified_ns) VALUES (?, ?, ?, ?)",
                    [*failures, *unread],
                )
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
                    self._encoder_for(self.generation, codebook).encode(ids, local)
        self._sweep()

    def pending(self) -> int:
        """Images that cannot be searched until the codebook is learned."""
        if not self.needs_codebook:
            return 0
        return int(self.catalogue.rows("SELECT count(*) FROM images WHERE words_at IS NULL")[0][0])

    @property
    def renewal(self) -> int:
        """The generation that is being encoded to take the place of the one that is searched by; 0: none is."""
        return int(self.catalogue.get("renewal") or 0)

    def to_encode(self) -> int:
        """Images without words of the newest codebook, for ``encode_pending``."""
        return int(self.catalogue.rows(f"SELECT count(*) FROM images WHERE {self._lacking}")[0][0])

    @property
    def _lacking(self) -> str:
        # Images are encoded by ascending id.
        return "id > (SELECT ifnull(max(id), 0) FROM renewed)" if self.renewal else "words_at IS NULL"

    def encode_pending(self, batch: int = 256) -> Iterator[int]:
        """Give images words of the newest codebook, a durable batch at a time; yields how many each was.

        A codebook that replaces another is searched by from the end on, and all at once.
        """
        log = self.features_log()
        while rows := self.catalogue.rows(
            f"SELECT id, features_at, features FROM images WHERE {self._lacking} ORDER BY id LIMIT ?", (batch,)
        ):
            local = [read_features(log, at, count, self.recipe.local) for _, at, count in rows]
            with self.catalogue.transaction():
                self._encoder_for(self.renewal or self.generation).encode([row[0] for row in rows], local)
            self._sweep()
            yield len(rows)
        if generation := self.renewal:
            self._encoder = None
            with self.catalogue.transaction() as db:
                db.execute(
                    "UPDATE images SET (words_at, words, words_crc) ="
                    " (SELECT words_at, words, words_crc FROM renewed WHERE renewed.id = images.id)"
                )
                db.execute("DELETE FROM segments")
                db.execute("INSERT INTO segments SELECT * FROM renewed_segments")
                self.catalogue.set("words_end", self.catalogue.get("renewed_words_end"))
                self.catalogue.set("codebook", self.catalogue.get("renewed_codebook"))
                self.catalogue.set("generation", generation)
                self.end_renewal()
            self._sweep()

    def start_generation(self, codebook: Codebook, facts: dict[str, Any], signer: Signer | None = None) -> None:
        """Give the collection a codebook, which all images wait to be encoded with, in ``encode_pending``.

        Where it has one already, that is searched by until all are. signer: fitted to the codebook's words; ValueError
        where the recipe has [hamming] and there is none.
        """
        word_filter(self.recipe, codebook, signer)
        generation = self.generation + 1
        with self.catalogue.transaction():
            self.end_renewal()  # of which files are overwritten
        codebook.save(self.codebook_path(generation))
        if signer is not None:
            signer.save(self.signer_path(generation))
        self._encoder = None
        renewed = "renewed_" if self.generation else ""
        with self.catalogue.transaction():
            self.catalogue.set("renewal" if renewed else "generation", generation)
            self.catalogue.set(f"{renewed}words_end", 0)
            self.catalogue.set(f"{renewed}codebook", facts)
        self._sweep()

    def end_renewal(self) -> None:
        """Forget what is encoded beside what is searched by; call inside a transaction."""
        self.catalogue.set("renewal", 0)
        self.catalogue.run("DELETE FROM renewed")
        self.catalogue.run("DELETE FROM renewed_segments")

    def adopt(self, following: "Store") -> None:
        """Go on as what the catalogue has just been made to say: that this is a collection of another's recipe.

        following: that other, in a folder of this one's, which is closed, and of which the data are this one's now.
        """
        following.close()
        self.recipe, self.fingerprint = following.recipe, following.fingerprint
        self._is_by = self.catalogue.get("recipe")
        self.data, self._encoder = following.folder, None
        self._sweep_data()

    def be_by(self, recipe: Recipe, fingerprint: str) -> None:
        """Say that it is by another recipe, by which all that is stored is as it is."""
        with self.catalogue.transaction():
            self.catalogue.set("recipe", recipe.model_dump_json(by_alias=True))
            self.catalogue.set("fingerprint", fingerprint)
        self.recipe, self.fingerprint = recipe, fingerprint
        self._is_by = self.catalogue.get("recipe")

    def description(self, image: int) -> Description:
        """What is stored of an image, by its id.

        Raises KeyError for an unknown one, and CollectionError where it is not what was written.
        """
        rows = self.catalogue.rows(f"SELECT width, height, {DESCRIPTION} FROM images WHERE id = ?", (image,))
        if not rows:
            raise KeyError(image)
        logs = self.features_log(), self.vectors_log()
        if not description_is_sound(self.recipe, *logs, rows[0][2:]):
            raise CollectionError(f"{self.folder}: the description of id:{image} is damaged: run `resight repair`")
        width, height, features_at, features, _, vector_at, _ = rows[0]
        local = None
        if features_at is not None:
            local = read_features(logs[0], features_at, features, self.recipe.local)
        vector, stage = None, self.recipe.global_
        if vector_at is not None and stage is not None:
            vector = logs[1].record(vector_at, 4 * sum(stage.lengths)).view("<f4").copy()
        return Description((width, height), vector, local)

    def remove(self, ids: Sequence[int]) -> None:
        """Forget images. Their records stay in the logs, where nothing points at them any more."""
        with self.catalogue.transaction() as db:
            db.executemany("DELETE FROM images WHERE id = ?", [(i,) for i in ids])

    def _encoder_for(self, generation: int, codebook: Codebook | None = None) -> Encoder:
        """What encodes with the codebook of a generation, loaded once. codebook: that, where it is at hand."""
        if self._encoder is None or self._encoder[0] != generation:
            if codebook is None or self.recipe.hamming is not None:
                learned = self.learned(generation)
            else:
                learned = codebook, None
            words, renewed = self.words_path(generation), generation == self.renewal
            encoder = Encoder(self.data, self.catalogue, self.recipe, learned, words, renewed=renewed)
            self._encoder = generation, encoder
        return self._encoder[1]

    def words_path(self, generation: int) -> Path:
        """Where the words lie that the codebook of a generation gives."""
        return self.data / f"words-{generation}.log"

    def _sweep(self) -> None:
        """Delete what a crash or an older generation left and the catalogue does not name."""
        named = {
            name
            for table in ("segments", "renewed_segments")
            for (name,) in self.catalogue.rows(f"SELECT name FROM {table}")
        }
        for generation in (self.generation, self.renewal):
            learned = self.words_path(generation), self.codebook_path(generation), self.signer_path(generation)
            named |= {path.name for path in learned}
        if (index := self.catalogue.get("index")) is not None:
            named.add(index["folder"])
        if (function := self.catalogue.get("hash")) is not None:
            named.add(function)
        for path in self.data.iterdir():
            ours = path.name.lstrip(".").startswith(_SWEPT)
            if ours and path.name not in named:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _sweep_data(self) -> None:
        """Delete the data that an upgrade has taken the place of."""
        if self.data == self.folder:
            return
        for path in self.folder.iterdir():
            older = path.name.startswith(UPGRADE) and path.name < f"{self.data.name}~" and path != self.data
            if older or path.name.lstrip(".").startswith(_DATA):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in (FILE, f"{FILE}-journal", _LOCK):  # of the collection that the data were first
            (self.data / name).unlink(missing_ok=True)


def read_features(log: LogReader, at: int, count: int, stage: LocalStage | None) -> LocalFeatures:
    """The local features of an image, from where the catalogue says they are. stage: the recipe's [local] table."""
    if stage is None:
        raise ValueError("the recipe has no local features")
    record = log.record(at, record_length(count, stage.dimension, stage.stored, stage.colours))
    return unpack_features(record, count, stage.dimension, stage.stored, stage.colours)


def description_is_sound(recipe: Recipe, features: LogReader, vectors: LogReader, places: Sequence[int | None]) -> bool:
    """Whether what is stored of an image has its checksums. places: features_at to vector_crc of its row."""
    at, count, crc, vector_at, vector_crc = places
    local = recipe.local
    dimensions = sum(recipe.global_.lengths) if recipe.global_ is not None else 0
    if local is not None and at is not None and count is not None and crc is not None:
        length = record_length(count, local.dimension, local.stored, local.colours)
        if not features.matches(at, length, crc):
            return False
    return vector_at is None or vector_crc is None or vectors.matches(vector_at, 4 * dimensions, vector_crc)


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
        raise LockedError(f"{folder}: another process is writing to it; wait for it or stop it") from error
    return file
