"""The catalogue: one SQLite file that says what is in a collection. What it has committed exists; nothing else does."""

import json
import os
import shlex
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError
from resight.store.log import sync_folder
from resight.store.schema import FORMAT, UPGRADED, add_functions, create_tables, damaged_rows, upgrade

FILE = "catalogue.sqlite"
_BUSY_SECONDS = 30.0
_PAGE = 4096  # rows read at a time


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
        self.before = 0
        """The version of a catalogue that this one took the place of, which its own are above."""
        self._lock = threading.RLock()
        with _explained(self._path):
            if not write:
                _roll_back(path)
            self._db = _connect(path, "rw" if write else "ro")
        try:
            self._check_format(folder)
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def create(cls, folder: Path, meta: dict[str, Any]) -> None:
        """Make the catalogue of an empty collection; it appears whole or not at all."""
        temporary = folder / f"{FILE}.new"
        for left in (temporary, folder / f"{FILE}.new-journal"):
            left.unlink(missing_ok=True)
        pairs = [(key, json.dumps(value)) for key, value in {"format": FORMAT, **meta}.items()]
        with _explained(temporary), closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")
            add_functions(db)
            db.execute("BEGIN")
            create_tables(db)
            db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", pairs)
            db.execute("COMMIT")
        temporary.replace(folder / FILE)
        sync_folder(folder)

    def _check_format(self, folder: Path) -> None:
        """Raises CollectionError, saying what to do, for a catalogue that cannot be read as it is."""
        found = self.get("format")
        if found not in (FORMAT, *UPGRADED):
            if isinstance(found, int) and found > FORMAT:
                raise CollectionError(
                    f"{folder}: has format {found}, of a newer resight; this one reads up to {FORMAT}: install that one"
                )
            raise CollectionError(
                f"{folder}: has format {found}, of an older resight, and this one reads {UPGRADED[0]} to {FORMAT}; its "
                f"photos are to be indexed anew: `{self.indexing_anew(folder)}`"
            )
        if lost := self.damaged("meta"):
            named = ", ".join(str(key) for (key,) in lost)
            raise CollectionError(
                f"{self._path}: what it says of the collection itself ({named}) is damaged; restore a copy, or index "
                f"its photos anew: `{self.indexing_anew(folder)}`"
            )

    def indexing_anew(self, folder: Path) -> str:
        """The command that makes such a collection of the same photos, as far as the catalogue tells."""
        photos, recipe = "PHOTOS", ""
        with suppress(CollectionError, ValueError, TypeError, KeyError):
            first, last = self.rows("SELECT min(origin), max(origin) FROM images")[0]
            photos = shlex.quote(os.path.commonpath([os.path.dirname(first), os.path.dirname(last)]))  # noqa: PTH120
        with suppress(CollectionError, ValueError, TypeError, KeyError):
            recipe = f" --recipe {shlex.quote(json.loads(self.get('recipe'))['name'])}"
        return f"resight index {photos} --into {shlex.quote(f'{folder}-anew')}{recipe}"

    @property
    def is_checked(self) -> bool:
        """Whether its rows have checksums: those of an older format get theirs in ``upgrade``."""
        return bool(self.get("format") == FORMAT)

    def upgrade(self) -> None:
        """Bring an older catalogue to this format; whoever calls is the one writer of the collection."""
        if not self.is_checked:
            with self.transaction() as db:
                upgrade(db)

    def damaged(self, table: str) -> list[tuple[str | int, ...]]:
        """The keys of a table's rows that are not what was written; none are known of an older format."""
        if not self.is_checked:
            return []
        with self._lock, _explained(self._path):
            return damaged_rows(self._db, table)

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
        with self._lock, _explained(self._path):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                if self._db.in_transaction:  # SQLite itself ends it where the disk fails
                    self._db.execute("COMMIT")

    @property
    def version(self) -> int:
        """Another number as soon as another connection, of this process or another, has committed."""
        return self.before + int(self.rows("PRAGMA data_version")[0][0])

    @property
    def images(self) -> int:
        """How many there are."""
        return int(self.rows("SELECT count(*) FROM images")[0][0])

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
        self._db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, json.dumps(value)))

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
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter where SQLite's own message quotes damage
        name = getattr(error, "sqlite_errorname", "")  # which a text that is no UTF-8 lacks
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE")):
            advice = "what was committed before is kept. Make room and run the same command again"
        elif name.startswith("SQLITE_READONLY"):
            advice = (
                "a writer was killed in the middle of a change, which is undone when the collection is opened once by "
                "who may write there, as by `resight info`"
            )
        else:
            advice = (
                "if no other process is using it and the disk is sound, `resight repair` mends what it can; "
                "else restore a copy or index anew"
            )
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
    add_functions(db)
    return db


def _roll_back(path: Path) -> None:
    """Undo what a killed writer had half committed, which SQLite does only for those who may write."""
    if path.with_name(f"{FILE}-journal").exists() and os.access(path.parent, os.W_OK):
        with closing(_connect(path, "rw")) as db:
            db.execute("SELECT 1 FROM meta").fetchone()
