"""The catalogue: one SQLite file that says what is in a collection. What it has committed exists; nothing else does."""

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError
from resight.store.log import sync_folder

FORMAT = 2
FILE = "catalogue.sqlite"
_BUSY_SECONDS = 30.0
_PAGE = 4096  # rows read at a time

# AUTOINCREMENT: an id is never given twice, so a posting of a removed image cannot be taken for another's.
# metadata.value has no declared type, so a number stays a number and a text a text; kind is what 0 and 1 mean.
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    origin TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    missing INTEGER NOT NULL DEFAULT 0,
    features_at INTEGER, features INTEGER, features_crc INTEGER,
    vector_at INTEGER, vector_crc INTEGER,
    words_at INTEGER, words INTEGER, words_crc INTEGER
);
CREATE INDEX images_digest ON images (digest);
CREATE INDEX images_pending ON images (id) WHERE words_at IS NULL;
CREATE TABLE failures (
    origin TEXT PRIMARY KEY, reason TEXT NOT NULL, bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE segments (
    name TEXT PRIMARY KEY, postings INTEGER NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE metadata (
    image INTEGER NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    value NOT NULL,
    given INTEGER NOT NULL,
    PRIMARY KEY (image, key)
) WITHOUT ROWID;
CREATE INDEX metadata_values ON metadata (key, kind, value);
CREATE TRIGGER metadata_of_removed AFTER DELETE ON images BEGIN DELETE FROM metadata WHERE image = OLD.id; END;
"""


@dataclass(frozen=True)
class Entry:
    """An image of a collection. origin: absolute path or archive.zip!/member; size: upright (width, height)."""

    id: int
    origin: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Failure:
    """A file that could not be indexed, and why."""

    origin: str
    reason: str


class Catalogue:
    """Rows about images, failures and inverted-file segments. Use inside ``transaction`` to write.

    Threads may share one: each waits until another's query, snapshot or transaction is over.
    """

    def __init__(self, folder: Path, *, write: bool) -> None:
        path = folder / FILE
        if not path.is_file():
            raise CollectionError(f"{folder}: no collection here; make one with `resight index PHOTOS --into {folder}`")
        self._path = path
        self._lock = threading.RLock()
        with _explained(self._path):
            if not write:
                _roll_back(path)
            self._db = _connect(path, "rw" if write else "ro")
        if (found := self.get("format")) != FORMAT:
            raise CollectionError(f"{folder}: has format {found}, this resight reads {FORMAT}; index it anew")

    @classmethod
    def create(cls, folder: Path, meta: dict[str, Any]) -> None:
        """Make the catalogue of an empty collection; it appears whole or not at all."""
        temporary = folder / f"{FILE}.new"
        for left in (temporary, folder / f"{FILE}.new-journal"):
            left.unlink(missing_ok=True)
        pairs = [(key, json.dumps(value)) for key, value in {"format": FORMAT, **meta}.items()]
        with _explained(temporary), closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(f"BEGIN;{_SCHEMA}")
            db.executemany("INSERT INTO meta VALUES (?, ?)", pairs)
            db.execute("COMMIT")
        temporary.replace(folder / FILE)
        sync_folder(folder)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside becomes visible and durable together at the end, or not at all."""
        with self._lock, _explained(self._path):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside see one state of the catalogue."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("COMMIT")

    @property
    def version(self) -> int:
        """Another number as soon as another connection, of this process or another, has committed."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def rows(self, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock, _explained(self._path):
            return self._db.execute(sql, tuple(values)).fetchall()

    def table(self, sql: str, columns: int) -> NDArray[np.int64]:
        """All rows of a query of integers; N×columns int64, in a fraction of the memory of ``rows``."""
        with self._lock, _explained(self._path):
            cursor = self._db.execute(sql)
            parts = [np.empty((0, columns), np.int64)]
            while rows := cursor.fetchmany(_PAGE):
                parts.append(np.array(rows, np.int64))
        return np.concatenate(parts)

    def run(self, sql: str, values: Iterable[Any] = ()) -> None:
        """Carry out a statement; call inside ``transaction``."""
        self._db.execute(sql, tuple(values))

    def each(self, sql: str, after: int | str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query by a key, read a page at a time, so that a slow reader keeps no writer waiting.

        sql: ends in ``WHERE key > ? ORDER BY key LIMIT ?`` and selects the key first. after: above which key to begin.
        """
        while rows := self.rows(sql, (after, _PAGE)):
            yield from rows
            after = rows[-1][0]

    def get(self, key: str) -> Any:
        """A fact about the collection, or None."""
        rows = self.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return json.loads(rows[0][0]) if rows else None

    def set(self, key: str, value: Any) -> None:
        """Record a fact about the collection; call inside ``transaction``."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def close(self) -> None:
        """Close the file."""
        self._db.close()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's troubles with the file as a CollectionError; our own mistakes stay what they are."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE")):
            advice = "what was committed before is kept. Make room and run the same command again"
        else:
            advice = "if no other process is using it and the disk is sound, restore a copy or index anew"
        raise CollectionError(f"{path}: {error}; {advice}") from error


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    db.execute("PRAGMA synchronous = FULL")
    # SQLite's own lower knows only ASCII.
    db.create_function("casefold", 1, lambda text: str(text).casefold(), deterministic=True)
    return db


def _roll_back(path: Path) -> None:
    """Undo what a killed writer had half committed, which SQLite does only for those who may write."""
    if path.with_name(f"{FILE}-journal").exists() and os.access(path.parent, os.W_OK):
        with closing(_connect(path, "rw")) as db:
            db.execute("SELECT 1 FROM meta").fetchone()
