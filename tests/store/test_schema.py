"""Rows whose checksums notice every change that did not come by way of a catalogue."""

import sqlite3
import zlib
from contextlib import closing

import pytest

from resight.store.catalogue import FILE, Catalogue
from resight.store.duplicates import Pair, decide, keep
from resight.store.metadata import set_facts
from resight.store.schema import CHECKED, add_functions, crc_of


@pytest.fixture
def folder(tmp_path):
    """A catalogue with a row in each checked table, twice where that is easy, some of it changed later."""
    Catalogue.create(tmp_path, {"recipe": "r", "generation": 0})
    with closing(Catalogue(tmp_path, write=True)) as catalogue:
        with catalogue.transaction() as db:
            for origin in ("/é.jpg", "/b.jpg"):
                columns = "origin, digest, bytes, modified_ns, width, height"
                db.execute(f"INSERT INTO images ({columns}) VALUES (?, 'd', 1, 2, 3, 4)", (origin,))
            db.execute("UPDATE images SET missing = 1, words_at = 5 WHERE id = 2")
            db.execute("INSERT INTO failures (origin, reason, bytes, modified_ns) VALUES ('/c', 'r', 0, 0)")
        set_facts(catalogue, {1: {"year": 1999.5, "artist": "somebody"}, 2: {"year": 7}})
        set_facts(catalogue, {1: {"year": 2000.25}})
        keep(catalogue, [1, 2], [Pair(1, 2, 0.75, 9)])
        keep(catalogue, [1, 2], [Pair(1, 2, 0.875, 10)])
        decide(catalogue, [1, 2], "different")
    return tmp_path


def test_every_row_is_sound_however_it_came_to_be(folder):
    with closing(Catalogue(folder, write=False)) as catalogue:
        for table in CHECKED:
            assert catalogue.damaged(table) == [] and catalogue.rows(f"SELECT count(*) FROM {table}")[0][0]


@pytest.mark.parametrize("table", CHECKED)
def test_a_change_of_any_column_is_noticed_and_the_row_named(folder, table):
    keys, others = CHECKED[table]
    for column in others:
        with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as db:
            add_functions(db)
            db.execute(f"DROP TRIGGER {table}_update_crc")
            row = db.execute(f"SELECT {', '.join(keys)}, {column} FROM {table} LIMIT 1").fetchone()
            changed = {str: f"{row[-1]}x", int: 1, float: 0.5, type(None): 0}[type(row[-1])]
            changed = changed + 1 if changed == row[-1] else changed
            where = " AND ".join(f"{key} = ?" for key in keys)
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (changed, *row[:-1]))
            found = db.execute(f"SELECT {', '.join(keys)} FROM {table} WHERE row_crc IS NOT {crc_of(table)}").fetchall()
            assert found == [row[:-1]]
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (row[-1], *row[:-1]))
            assert not db.execute(f"SELECT 1 FROM {table} WHERE row_crc IS NOT {crc_of(table)}").fetchall()
            db.execute(f"CREATE TRIGGER {table}_update_crc AFTER UPDATE ON {table} BEGIN SELECT 1; END")


def test_the_checksum_is_of_types_and_lengths_too():
    with closing(sqlite3.connect(":memory:")) as db:
        add_functions(db)

        def crc(*values):
            return db.execute(f"SELECT crc_of({', '.join('?' * len(values))})", values).fetchone()[0]

        assert crc(12, None) == zlib.crc32(b"12;None;") and crc(b"12") == zlib.crc32(b"t2:12")
        told = [crc(12), crc(b"12"), crc(12.0), crc(1, 2), crc(b"1", b"2"), crc(None), crc(b""), crc(b"", b"12")]
        assert len(set(told)) == len(told)
