"""Transactions, crashes in them, readers beside them, and files that are no catalogue."""

import signal
import sqlite3

import pytest

from resight.errors import CollectionError
from resight.store.catalogue import FILE, Catalogue
from resight.store.schema import FORMAT, add_functions

COUNT = "SELECT count(*) FROM failures"
INSERT = "INSERT INTO failures (origin, reason, bytes, modified_ns) VALUES (?, 'r', 0, 0)"


@pytest.fixture
def folder(tmp_path):
    Catalogue.create(tmp_path, {"recipe": "r", "generation": 0})
    return tmp_path


def test_facts_are_kept_as_they_are(folder):
    writer = Catalogue(folder, write=True)
    with writer.transaction():
        writer.set("codebook", {"words": 7, "fitted_on": "ü"})
    assert Catalogue(folder, write=False).get("codebook") == {"words": 7, "fitted_on": "ü"}
    assert writer.get("generation") == 0 and writer.get("unknown") is None


def test_a_transaction_is_whole_or_nothing(folder):
    writer, reader = Catalogue(folder, write=True), Catalogue(folder, write=False)
    with pytest.raises(KeyError), writer.transaction() as db:
        db.execute(INSERT, ("a",))
        assert reader.rows(COUNT) == [(0,)]
        raise KeyError
    assert writer.rows(COUNT) == reader.rows(COUNT) == [(0,)]
    with writer.transaction() as db:
        db.execute(INSERT, ("a",))
    assert reader.rows(COUNT) == [(1,)]


def test_reads_in_a_snapshot_see_one_state(folder):
    writer, reader = Catalogue(folder, write=True), Catalogue(folder, write=False)
    writer._db.execute("PRAGMA busy_timeout = 50")
    with reader.snapshot():
        assert reader.rows(COUNT) == [(0,)]
        # The commit waits for the snapshot to end; here it is made to give up, and leaves nothing.
        with pytest.raises(CollectionError, match="locked"), writer.transaction() as db:
            db.execute(INSERT, ("a",))
        assert reader.rows(COUNT) == [(0,)]
    with writer.transaction() as db:
        db.execute(INSERT, ("a",))
    assert reader.rows(COUNT) == [(1,)]


def test_a_disk_that_fails_in_a_snapshot_is_what_is_told(folder):
    reader = Catalogue(folder, write=False)
    with pytest.raises(CollectionError, match="disk I/O error"), reader.snapshot():
        reader._db.execute("ROLLBACK")  # as SQLite itself does then
        raise sqlite3.OperationalError("disk I/O error")
    with reader.snapshot():
        assert reader.rows(COUNT) == [(0,)]


def test_a_reader_in_the_middle_of_a_long_list_holds_up_no_writer(folder):
    writer, reader = Catalogue(folder, write=True), Catalogue(folder, write=False)
    writer._db.execute("PRAGMA busy_timeout = 50")
    names = [f"{i:05}" for i in range(5000)]
    with writer.transaction() as db:
        db.executemany(INSERT, [(name,) for name in names])
    listed = reader.each("SELECT origin FROM failures WHERE origin > ? ORDER BY origin LIMIT ?", "")
    seen = [next(listed)]
    with writer.transaction() as db:
        db.execute("DELETE FROM failures WHERE origin = '04999'")
    assert [name for (name,) in seen + list(listed)] == names[:-1]


CRASH = """
import os, signal, sys
from pathlib import Path
from resight.store.catalogue import Catalogue
writer = Catalogue(Path(sys.argv[1]), write=True)
writer._db.execute("PRAGMA cache_size = 5")  # so that half of the transaction is in the file before it is committed
with writer.transaction() as db:
    insert = "INSERT INTO failures (origin, reason, bytes, modified_ns) VALUES (?, 'r', 0, 0)"
    db.executemany(insert, [(str(i) * 50,) for i in range(3000)])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_a_transaction_cut_off_by_a_crash_is_undone_by_whoever_comes_first(folder, python, first):
    assert python(CRASH, folder).wait(60) == -signal.SIGKILL and (folder / f"{FILE}-journal").stat().st_size > 0
    assert Catalogue(folder, write=first == "writer").rows(COUNT) == [(0,)]
    assert Catalogue(folder, write=False).rows("PRAGMA integrity_check") == [("ok",)]


def test_a_crash_while_it_is_made_leaves_none_and_can_be_made_again(tmp_path):
    (tmp_path / f"{FILE}.new").write_bytes(b"half")
    (tmp_path / f"{FILE}.new-journal").write_bytes(b"half")
    with pytest.raises(CollectionError, match="no collection here; make one with `resight index"):
        Catalogue(tmp_path, write=False)
    Catalogue.create(tmp_path, {})
    assert Catalogue(tmp_path, write=True).get("format") == FORMAT
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_files_that_are_no_catalogue_are_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"This is not a catalogue at all. " * 40)
    with pytest.raises(CollectionError, match=r"catalogue\.sqlite: file is not a database"):
        Catalogue(tmp_path, write=False)


def test_another_format_is_refused(folder):
    db = sqlite3.connect(folder / FILE)
    add_functions(db)
    db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    db.commit()
    db.close()
    with pytest.raises(CollectionError, match="has format 99, of a newer resight; this one reads up to 3: install"):
        Catalogue(folder, write=False)


def test_a_full_disk_is_said_in_words_and_loses_nothing(folder):
    writer = Catalogue(folder, write=True)
    with writer.transaction() as db:
        db.execute(INSERT, ("before",))
    pages = writer.rows("PRAGMA page_count")[0][0]
    writer._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(CollectionError, match=r"full.*Make room"), writer.transaction() as db:
        db.executemany(INSERT, [(str(i) * 99,) for i in range(999)])
    assert writer.rows("SELECT origin FROM failures") == [("before",)]
    writer._db.execute("PRAGMA max_page_count = 100000")
    with writer.transaction() as db:
        db.execute(INSERT, ("after",))
    assert writer.rows(COUNT) == [(2,)]
