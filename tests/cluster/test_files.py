"""Files in a folder and in a store that is no file system: whole or absent, and troubles named."""

import errno
import os
import shutil

import pytest

from resight.cluster.files import Files, whole_url
from resight.errors import CollectionError

pytest.importorskip("fsspec")


@pytest.fixture(params=["folder", "memory"])
def files(request, tmp_path):
    return Files(tmp_path / "store" if request.param == "folder" else f"memory://{tmp_path.name}")


def test_written_is_read_and_replaced(files, tmp_path):
    assert not files.exists("a/b") and files.names("a") == []
    files.write("a/b", b"one")
    files.write("a/b", b"two")
    local = tmp_path / "local"
    local.write_bytes(b"three")
    files.put(local, "a/c")
    assert (files.read("a/b"), files.read("a/c"), files.size("a/c")) == (b"two", b"three", 5)
    assert files.exists("a/b") and not files.exists("a") and files.names("a") == ["a/b", "a/c"]
    files.get("a/c", tmp_path / "deep/er")
    assert (tmp_path / "deep/er").read_bytes() == b"three" and [p.name for p in (tmp_path / "deep").iterdir()] == ["er"]
    files.remove("a/b")
    files.remove("a/b")
    assert files.names("a") == ["a/c"] and files.size("a/b") == 0


def test_what_was_written_in_part_is_not_there(files, tmp_path, monkeypatch):
    files.write("a/b", b"before")
    (tmp_path / "local").write_bytes(b"all of it")

    def full(source, target, length):
        target.write(source.read(3))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(CollectionError, match="a/b: No space left"):
        files.put(tmp_path / "local", "a/b")
    with pytest.raises(CollectionError, match="a/b: No space left"):
        files.get("a/b", tmp_path / "copy")
    assert files.read("a/b") == b"before" and files.names("a") == ["a/b"]
    assert not list(tmp_path.glob("copy*"))


def test_what_is_not_there_is_named(files, tmp_path):
    for read in (lambda: files.read("x/y"), lambda: files.get("x/y", tmp_path / "z")):
        with pytest.raises(CollectionError, match="x/y: is not there"):
            read()
    assert not (tmp_path / "z").exists() and list(tmp_path.glob("z*")) == []


def test_a_store_that_fsspec_does_not_know():
    with pytest.raises(CollectionError, match="nosuch://x"):
        Files("nosuch://x")


def test_places_are_the_same_from_everywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert whole_url("a/../b") == str(tmp_path / "b")
    assert whole_url("s3://bucket/b") == "s3://bucket/b"
