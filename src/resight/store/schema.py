"""The catalogue's tables, whose rows carry a CRC-32 of themselves, and what makes an older catalogue like them.

SQLite notices damage only where it breaks a page's structure: a flipped bit in a path or a number is a path or number
like others. So each row of a checked table has in ``row_crc`` that of its other columns, which triggers keep, through
the function ``crc_of`` of the connection.
"""

import sqlite3
import struct
import zlib

FORMAT = 3
UPGRADED = (2,)
"""Formats that are read as they are, and become FORMAT when they are opened for writing.

2 has no ``row_crc``, and encodes anew in place.
"""

# AUTOINCREMENT: an id is never given twice, so a posting of a removed image cannot be taken for another's.
# metadata.value has no declared type, so a number stays a number and a text a text; kind is what 0 and 1 mean.
# A segment's crc is of its files, and its row is true where that is.
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, row_crc INTEGER) WITHOUT ROWID;
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
    words_at INTEGER, words INTEGER, words_crc INTEGER,
    row_crc INTEGER
);
CREATE INDEX images_digest ON images (digest);
CREATE INDEX images_pending ON images (id) WHERE words_at IS NULL;
CREATE TABLE failures (
    origin TEXT PRIMARY KEY, reason TEXT NOT NULL, bytes INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    row_crc INTEGER
) WITHOUT ROWID;
CREATE TABLE segments (
    name TEXT PRIMARY KEY, postings INTEGER NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE renewed (id INTEGER PRIMARY KEY, words_at INTEGER, words INTEGER, words_crc INTEGER);
CREATE TABLE renewed_segments (
    name TEXT PRIMARY KEY, postings INTEGER NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE metadata (
    image INTEGER NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    value NOT NULL,
    given INTEGER NOT NULL,
    row_crc INTEGER,
    PRIMARY KEY (image, key)
) WITHOUT ROWID;
CREATE INDEX metadata_values ON metadata (key, kind, value);
CREATE TRIGGER metadata_of_removed AFTER DELETE ON images BEGIN DELETE FROM metadata WHERE image = OLD.id; END;
"""

CHECKED = {
    "meta": (("key",), ("value",)),
    "images": (
        ("id",),
        (
            *("origin", "digest", "bytes", "modified_ns", "width", "height", "missing"),
            *("features_at", "features", "features_crc", "vector_at", "vector_crc", "words_at", "words", "words_crc"),
        ),
    ),
    "failures": (("origin",), ("reason", "bytes", "modified_ns")),
    "metadata": (("image", "key"), ("kind", "value", "given")),
    # Made when duplicates are first looked for.
    "near_duplicates": (("a", "b"), ("overlap", "inliers")),
    "duplicate_decisions": (("a", "b"), ("decision",)),
}
"""Of each checked table the columns of its key, and the others."""


def add_functions(db: sqlite3.Connection) -> None:
    """Give a connection the functions that the tables need."""
    db.create_function("crc_of", -1, _crc, deterministic=True)
    # SQLite's own lower knows only ASCII.
    db.create_function("casefold", 1, lambda text: str(text).casefold(), deterministic=True)


def create_tables(db: sqlite3.Connection) -> None:
    """All that an empty catalogue has; call inside a transaction."""
    for statement in _statements(_TABLES):
        db.execute(statement)
    for table in ("meta", "images", "failures", "metadata"):
        check_rows(db, table)


def check_rows(db: sqlite3.Connection, table: str) -> None:
    """Make the triggers that keep ``row_crc``; call inside a transaction, before the first row comes."""
    keys, others = CHECKED[table]
    row = " AND ".join(f"{key} = NEW.{key}" for key in keys)
    for event in ("INSERT", f"UPDATE OF {', '.join(keys + others)}"):
        db.execute(
            f"CREATE TRIGGER IF NOT EXISTS {table}_{event[:6].lower()}_crc AFTER {event} ON {table} BEGIN"
            f" UPDATE {table} SET row_crc = {crc_of(table, 'NEW.')} WHERE {row}; END"
        )


def crc_of(table: str, row: str = "") -> str:
    """SQL of what ``row_crc`` should be. row: ``NEW.`` in a trigger.

    Texts as bytes, since damaged ones may be no UTF-8, which would end the query.
    """
    keys, others = CHECKED[table]
    given = (f"CASE typeof({row}{c}) WHEN 'text' THEN CAST({row}{c} AS BLOB) ELSE {row}{c} END" for c in keys + others)
    return f"crc_of({', '.join(given)})"


def upgrade(db: sqlite3.Connection) -> None:
    """Make the tables of format 2 like those of FORMAT; call inside a transaction."""
    for statement in _statements(_TABLES):
        if "TABLE renewed" in statement:
            db.execute(statement)
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in CHECKED:
        if table in there:
            db.execute(f"ALTER TABLE {table} ADD COLUMN row_crc INTEGER")
            db.execute(f"UPDATE {table} SET row_crc = {crc_of(table)}")
            check_rows(db, table)
    db.execute("UPDATE meta SET value = ? WHERE key = 'format'", (str(FORMAT),))


def damaged_rows(db: sqlite3.Connection, table: str) -> list[tuple[str | int, ...]]:
    """The keys of rows that are not what was written, as far as they can be read; none of a table that is not there."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone():
        return []
    keys = CHECKED[table][0]
    rows = db.execute(
        f"SELECT {', '.join(f'CAST({key} AS BLOB)' for key in keys)} FROM {table} WHERE row_crc IS NOT {crc_of(table)}"
    )
    return [tuple(_read(value) for value in row) for row in rows]


def _read(value: bytes) -> str | int:
    text = value.decode(errors="backslashreplace")
    return int(text) if text.lstrip("-").isdecimal() else text


def _crc(*values: bytes | str | int | float | None) -> int:
    crc = 0
    for value in values:
        match value:
            case bytes():
                part = b"t%d:" % len(value) + value
            case float():
                part = b"f" + struct.pack("<d", value)
            case _:
                part = f"{value};".encode()
        crc = zlib.crc32(part, crc)
    return crc


def _statements(script: str) -> list[str]:
    """``executescript`` would commit first."""
    statements, part = [], ""
    for line in script.splitlines():
        part += f"{line}\n"
        if sqlite3.complete_statement(part):
            statements.append(part)
            part = ""
    return statements
