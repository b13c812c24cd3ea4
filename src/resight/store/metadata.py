"""What is known of images besides their pixels, in the catalogue: one value for an image and a key.

A fact is of the photo itself (EXIF), or was given by a sidecar or the library's user and then stands in the photo's
place. A given fact stays with the photo when that is described anew, moves, or goes missing; all end with the image.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from resight.errors import QueryError
from resight.store.catalogue import Catalogue
from resight.store.facts import KINDS, Kind, Value, kind_of, wrong_with_key, wrong_with_value

_FREQUENT = 5  # values shown of a key
_INSERT = "INSERT OR {} INTO metadata (image, key, kind, value, given) VALUES (?, ?, ?, ?, ?)"

Given = tuple[str, Kind, Value]
"""key, kind and value of a given fact."""


@dataclass(frozen=True)
class Key:
    """A key of a collection and the values of one kind that images have for it.

    images: how many have one. low, high: the least and the greatest, of numbers and texts.
    frequent: the most frequent texts or truth values and how many images have each, the most frequent first.
    """

    name: str
    kind: Kind
    images: int
    low: Value | None
    high: Value | None
    frequent: tuple[tuple[Value, int], ...]


def facts(catalogue: Catalogue, image: int) -> dict[str, Value]:
    """What is known of an image, by key in alphabetical order."""
    rows = catalogue.rows("SELECT key, kind, value FROM metadata WHERE image = ? ORDER BY key", (image,))
    return {key: _value(kind, value) for key, kind, value in rows}


def give(db: sqlite3.Connection, image: int, values: Mapping[str, Value | None]) -> None:
    """Give an image facts, inside a transaction; None takes back what was given, and leaves what EXIF says."""
    db.executemany(
        "DELETE FROM metadata WHERE image = ? AND key = ? AND given",
        [(image, key) for key, value in values.items() if value is None],
    )
    db.executemany(
        _INSERT.format("REPLACE"),
        [(image, key, kind_of(value), value, 1) for key, value in values.items() if value is not None],
    )


def given_at(db: sqlite3.Connection, origins: Iterable[str]) -> dict[str, list[Given]]:
    """The given facts of the images that are at origins now, for ``describe`` of those that replace them."""
    sql = "SELECT key, kind, value FROM metadata JOIN images ON image = id WHERE origin = ? AND given"
    found = {origin: db.execute(sql, (origin,)).fetchall() for origin in origins}
    return {origin: rows for origin, rows in found.items() if rows}


def describe(db: sqlite3.Connection, image: int, exif: Mapping[str, Value], given: Iterable[Given]) -> None:
    """Store the facts of a new image, inside a transaction; given ones in place of the photo's own."""
    db.executemany(_INSERT.format("ABORT"), [(image, *fact, 1) for fact in given])
    db.executemany(_INSERT.format("IGNORE"), [(image, key, kind_of(value), value, 0) for key, value in exif.items()])


def set_facts(catalogue: Catalogue, values: Mapping[int, Mapping[str, Value | None]]) -> None:
    """Give images, by id, facts, all or none; None takes back what was given.

    Raises QueryError for an unknown id, and ValueError for a key or value that a fact cannot have.
    """
    for image, own in values.items():
        for key, value in own.items():
            if wrong := wrong_with_key(key) or (value is not None and wrong_with_value(value)):
                raise ValueError(f"id:{image}: {key!r}: {value!r} {wrong}")
    with catalogue.transaction() as db:
        for image, own in values.items():
            if db.execute("SELECT 1 FROM images WHERE id = ?", (int(image),)).fetchone() is None:
                raise QueryError(f"id:{image}: there is no image with this id; `resight export` lists the ids")
            give(db, int(image), own)


def keys(catalogue: Catalogue) -> list[str]:
    """Every key that an image has, in alphabetical order."""
    # Steps from key to key along the index, where DISTINCT would read all of it.
    rows = catalogue.rows(
        "WITH RECURSIVE step (key) AS ("
        " SELECT min(key) FROM metadata"
        " UNION ALL SELECT (SELECT min(key) FROM metadata WHERE key > step.key) FROM step WHERE step.key IS NOT NULL"
        ") SELECT key FROM step WHERE key IS NOT NULL"
    )
    return [key for (key,) in rows]


def kinds_of(catalogue: Catalogue, key: str) -> set[Kind]:
    """The kinds of values that images have for a key; none for an unknown one."""
    sql = "SELECT 1 FROM metadata WHERE key = ? AND kind = ? LIMIT 1"
    return {kind for kind in KINDS if catalogue.rows(sql, (key, kind))}


def summary(catalogue: Catalogue) -> list[Key]:
    """Every key, once for each kind of its values."""
    with catalogue.snapshot():
        held = [(key, kinds_of(catalogue, key)) for key in keys(catalogue)]
        return [_summed(catalogue, key, kind) for key, kinds in held for kind in KINDS if kind in kinds]


def _summed(catalogue: Catalogue, key: str, kind: Kind) -> Key:
    ((images, low, high),) = catalogue.rows(
        "SELECT count(*), min(value), max(value) FROM metadata WHERE key = ? AND kind = ?", (key, kind)
    )
    if kind == "truth":
        low = high = None
    return Key(key, kind, images, low, high, () if kind == "number" else _frequent(catalogue, key, kind))


def _frequent(catalogue: Catalogue, key: str, kind: Kind) -> tuple[tuple[Value, int], ...]:
    rows = catalogue.rows(
        "SELECT value, count(*) FROM metadata WHERE key = ? AND kind = ? GROUP BY value"
        " ORDER BY count(*) DESC, value LIMIT ?",
        (key, kind, _FREQUENT),
    )
    return tuple((_value(kind, value), count) for value, count in rows)


def _value(kind: Kind, stored: int | float | str) -> Value:
    return bool(stored) if kind == "truth" else stored
