"""Pairs of near-duplicates that were found, what has been compared for it, and what a person has decided about pairs.

Found pairs can be found again; decisions cannot, and stay until one of the two images goes. All are of image ids.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from resight.errors import QueryError
from resight.store.catalogue import Catalogue
from resight.store.schema import check_rows

Decision = Literal["duplicates", "different"]

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS near_duplicates (a INTEGER NOT NULL, b INTEGER NOT NULL, overlap REAL NOT NULL,"
    " inliers INTEGER NOT NULL, row_crc INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS near_duplicates_b ON near_duplicates (b)",
    "CREATE TABLE IF NOT EXISTS duplicates_compared (image INTEGER PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS duplicate_decisions (a INTEGER NOT NULL, b INTEGER NOT NULL, decision TEXT NOT NULL,"
    " row_crc INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS duplicate_decisions_b ON duplicate_decisions (b)",
    "CREATE TRIGGER IF NOT EXISTS duplicates_of_removed AFTER DELETE ON images BEGIN"
    " DELETE FROM near_duplicates WHERE a = OLD.id; DELETE FROM near_duplicates WHERE b = OLD.id;"
    " DELETE FROM duplicate_decisions WHERE a = OLD.id; DELETE FROM duplicate_decisions WHERE b = OLD.id;"
    " DELETE FROM duplicates_compared WHERE image = OLD.id; END",
)


@dataclass(frozen=True)
class Pair:
    """Two images, the lower id first; overlap: how much of both frames is the same, 0 to 1; inliers: that say so."""

    a: int
    b: int
    overlap: float
    inliers: int


def pairs(catalogue: Catalogue) -> list[Pair]:
    """All that were found, by ids."""
    if not _there(catalogue):
        return []
    return [Pair(*row) for row in catalogue.rows("SELECT a, b, overlap, inliers FROM near_duplicates ORDER BY a, b")]


def decisions(catalogue: Catalogue) -> dict[tuple[int, int], Decision]:
    """All, by the two ids, the lower one first."""
    if not _there(catalogue):
        return {}
    return {(a, b): decision for a, b, decision in catalogue.rows("SELECT a, b, decision FROM duplicate_decisions")}


def uncompared(catalogue: Catalogue) -> list[int]:
    """Ids of the images that have not been looked at, ascending."""
    if not _there(catalogue):
        return [image for (image,) in catalogue.rows("SELECT id FROM images ORDER BY id")]
    left = "SELECT id FROM images WHERE id NOT IN (SELECT image FROM duplicates_compared) ORDER BY id"
    return [image for (image,) in catalogue.rows(left)]


def keep(catalogue: Catalogue, compared: Sequence[int], found: Iterable[Pair]) -> None:
    """Keep what comparing some images has found; of a pair that is found from both sides the larger overlap."""
    with catalogue.transaction() as db:
        _make(db)
        db.executemany(
            "INSERT INTO near_duplicates (a, b, overlap, inliers) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " overlap = excluded.overlap, inliers = excluded.inliers WHERE excluded.overlap > overlap",
            [(pair.a, pair.b, pair.overlap, pair.inliers) for pair in found],
        )
        db.executemany("INSERT OR IGNORE INTO duplicates_compared VALUES (?)", [(image,) for image in compared])


def forget_compared(catalogue: Catalogue) -> None:
    """Let all be compared anew. Decisions stay."""
    with catalogue.transaction() as db:
        _make(db)
        db.execute("DELETE FROM near_duplicates")
        db.execute("DELETE FROM duplicates_compared")


def decide(catalogue: Catalogue, images: Sequence[int], decision: Decision | None) -> None:
    """Decide about each pair of some images; None takes decisions back. QueryError for an unknown id."""
    chosen = sorted(set(images))
    with catalogue.transaction() as db:
        _make(db)
        for image in chosen:
            if db.execute("SELECT 1 FROM images WHERE id = ?", (image,)).fetchone() is None:
                raise QueryError(f"id:{image}: there is no image with this id; it may have been removed")
        each = [(a, b) for place, a in enumerate(chosen) for b in chosen[place + 1 :]]
        if decision is None:
            db.executemany("DELETE FROM duplicate_decisions WHERE a = ? AND b = ?", each)
        else:
            db.executemany(
                "INSERT OR REPLACE INTO duplicate_decisions (a, b, decision) VALUES (?, ?, ?)",
                [(*p, decision) for p in each],
            )


def _make(db: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        db.execute(statement)
    for table in ("near_duplicates", "duplicate_decisions"):
        check_rows(db, table)


def _there(catalogue: Catalogue) -> bool:
    return bool(catalogue.rows("SELECT 1 FROM sqlite_master WHERE name = 'duplicate_decisions'"))
