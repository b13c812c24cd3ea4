"""The log keeps what was committed and forgets what was not."""

import os
import zlib

import pytest

from resight.errors import CollectionError
from resight.store.log import LogReader, LogWriter, rewrite


def write(path, end, *records):
    with LogWriter(path, end) as log:
        places = [log.append(record) for record in records]
        log.sync()
        return places, log.end


def test_records_lie_one_after_another(tmp_path):
    places, end = write(tmp_path / "log", 0, b"one", b"", b"three")
    assert places == [(0, zlib.crc32(b"one")), (3, 0), (3, zlib.crc32(b"three"))] and end == 8
    assert (tmp_path / "log").read_bytes() == b"onethree"
    reader = LogReader(tmp_path / "log")
    assert [reader.record(at, n).tobytes() for at, n in ((0, 3), (3, 0), (3, 5))] == [b"one", b"", b"three"]


def test_a_torn_tail_is_overwritten(tmp_path):
    _, end = write(tmp_path / "log", 0, b"kept")
    write(tmp_path / "log", end, b"half of a batch that was never committed")
    assert write(tmp_path / "log", end, b"next") == ([(4, zlib.crc32(b"next"))], 8)
    assert (tmp_path / "log").read_bytes() == b"keptnext"


def test_what_was_committed_and_is_not_there_is_an_error(tmp_path):
    write(tmp_path / "log", 0, b"kept")
    with pytest.raises(CollectionError, match=r"log: is 4 bytes, but the catalogue has committed 5"):
        LogWriter(tmp_path / "log", 5)
    assert (tmp_path / "log").read_bytes() == b"kept"
    with pytest.raises(CollectionError, match="log: is cut off"):
        LogReader(tmp_path / "log").record(2, 3)


def test_readers_know_sound_records_from_damaged_and_missing_ones(tmp_path):
    ((at, crc),), _ = write(tmp_path / "log", 0, b"record")
    reader = LogReader(tmp_path / "log")
    assert reader.matches(at, 6, crc) and not reader.matches(at, 5, crc) and not reader.matches(at, 7, crc)
    (tmp_path / "log").write_bytes(b"recorD")
    assert not LogReader(tmp_path / "log").matches(at, 6, crc)


def test_a_reader_of_nothing_yet(tmp_path):
    assert LogReader(tmp_path / "log").record(0, 0).tobytes() == b""
    assert not LogReader(tmp_path / "log").matches(0, 1, 0)


def test_a_file_that_is_cut_off_beneath_a_reader_is_an_error(tmp_path):
    write(tmp_path / "log", 0, bytes(9000))
    reader = LogReader(tmp_path / "log")
    assert len(reader.record(8000, 1000)) == 1000
    os.truncate(tmp_path / "log", 8999)
    with pytest.raises(CollectionError, match="log: was cut off from 9,000 to 8,999 bytes while it was being read"):
        reader.record(0, 10)
    with pytest.raises(CollectionError, match="log: is cut off"):
        reader.copied(8000, 1000)
    assert reader.copied(8000, 999).tobytes() == bytes(999)


def test_a_damaged_place_or_length_asks_for_no_memory(tmp_path):
    write(tmp_path / "log", 0, b"record")
    reader = LogReader(tmp_path / "log")
    assert not reader.matches(0, 2**50, 0) and not reader.matches(-1, 3, 0) and not reader.matches(2**60, 1, 0)


def test_records_are_put_back_where_they_lay(tmp_path):
    write(tmp_path / "log", 0, b"one", b"two", b"three")
    os.truncate(tmp_path / "log", 4)
    rewrite(tmp_path / "log", [(3, b"two"), (6, b"three")])
    assert (tmp_path / "log").read_bytes() == b"onetwothree"
