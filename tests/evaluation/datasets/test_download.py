"""Downloads from a local server: ranges, interruptions, changes and damage; unpacking; and a whole set."""

import hashlib
import http.server
import io
import json
import socket
import tarfile
import threading
import zipfile
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from resight.errors import ResightError
from resight.evaluation.datasets import File, find_dataset, load_dataset, obtain
from resight.evaluation.datasets.download import fetch
from resight.evaluation.datasets.unpack import unpack

DATA = np.random.default_rng(0).bytes(3_000_000)
OTHER = np.random.default_rng(1).bytes(3_000_000)


@dataclass
class Site:
    """cut: bytes after which each of the next answers breaks off. etag, dated: whether answers carry them."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: list[int] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    etag: bool = True
    dated: bool = False
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def file(self, name, **facts):
        return File(f"{self.address}/{name}", name, **facts)


@pytest.fixture
def site():
    state = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            span = self.headers.get("Range")
            state.asked.append((self.path[1:], span))
            data = state.files.get(self.path[1:])
            if data is None or state.failures:
                self.send_error(state.failures.pop(0) if state.failures else 404)
                return
            tag, date = f'"{hashlib.md5(data).hexdigest()}"', f"{len(state.files)}:{hashlib.md5(data).hexdigest()}"
            start = 0
            if span and state.ranges and self.headers.get("If-Range") in (tag, date):
                start = int(span.removeprefix("bytes=").removesuffix("-"))
                if start >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if state.etag:
                self.send_header("ETag", tag)
            if state.dated:
                self.send_header("Last-Modified", date)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = data[start:]
            if state.cut:
                self.wfile.write(body[: state.cut.pop(0)])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            else:
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


def get(file, path, **options):
    return fetch(file, path, wait=0, **options)


def test_a_file_comes_whole_and_is_reported(site, tmp_path):
    site.files["a.bin"] = DATA
    seen = []
    found = get(site.file("a.bin"), tmp_path / "sub/a.bin", report=lambda *progress: seen.append(progress))
    assert (tmp_path / "sub/a.bin").read_bytes() == DATA and found == hashlib.sha256(DATA).hexdigest()
    assert seen[-1] == ("a.bin", len(DATA), len(DATA))
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.bin"]  # nothing is left beside it


@pytest.mark.parametrize(("etag", "dated"), [(True, False), (False, True)])
def test_an_interrupted_file_goes_on_where_it_stopped(site, tmp_path, etag, dated):
    site.files["a.bin"], site.cut, site.etag, site.dated = DATA, [1_000_000, 700_000], etag, dated
    get(site.file("a.bin", sha256=hashlib.sha256(DATA).hexdigest()), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert [span for _, span in site.asked] == [None, "bytes=1000000-", "bytes=1700000-"]


def test_another_run_goes_on(site, tmp_path):
    site.files["a.bin"], site.cut = DATA, [100_000] * 5
    with pytest.raises(ResightError, match="ended early; run it again to go on"):
        get(site.file("a.bin"), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()
    site.asked.clear()
    get(site.file("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA and site.asked == [("a.bin", "bytes=500000-")]


def test_a_file_that_changed_meanwhile_is_begun_anew(site, tmp_path):
    site.files["a.bin"], site.cut = DATA, [500_000] * 5
    with pytest.raises(ResightError, match="run it again"):
        get(site.file("a.bin"), tmp_path / "a.bin")
    site.files["a.bin"] = OTHER
    get(site.file("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == OTHER  # not DATA's beginning and OTHER's end


@pytest.mark.parametrize(("ranges", "etag"), [(False, True), (True, False)])
def test_where_nothing_says_that_it_is_the_same_file_it_is_begun_anew(site, tmp_path, ranges, etag):
    site.files["a.bin"], site.cut, site.ranges, site.etag = DATA, [1_000_000], ranges, etag
    get(site.file("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_complete_part_is_not_fetched_again(site, tmp_path):
    """Killed between the last byte and the verification."""
    site.files["a.bin"], site.cut = DATA, [len(DATA) - 1] + [1] * 4
    (tmp_path / "a.bin.part").write_bytes(DATA)
    (tmp_path / "a.bin.part.validator").write_text(json.dumps(f'"{hashlib.md5(DATA).hexdigest()}"'))
    get(site.file("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA and site.asked == [("a.bin", f"bytes={len(DATA)}-")]


def test_a_part_longer_than_the_file_is_begun_anew(site, tmp_path):
    site.files["a.bin"] = DATA
    (tmp_path / "a.bin.part").write_bytes(DATA + b"more")
    (tmp_path / "a.bin.part.validator").write_text(json.dumps(f'"{hashlib.md5(DATA).hexdigest()}"'))
    get(site.file("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_server_that_is_down_for_a_moment(site, tmp_path):
    site.files["a.bin"], site.failures = DATA, [503, 500]
    get(site.file("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize("there", [False, True])
def test_damage_is_noticed_and_removed(site, tmp_path, there):
    damaged = DATA[:-1] + bytes([DATA[-1] ^ 1])
    site.files["a.bin"] = damaged
    if there:
        (tmp_path / "a.bin").write_bytes(damaged)
    with pytest.raises(ResightError, match=r"this came damaged, or is another file: its sha256 is .* was removed"):
        get(site.file("a.bin", sha256=hashlib.sha256(DATA).hexdigest()), tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["md5", "sha256"])
@pytest.mark.parametrize("form", ["{sum}", "{sum}  a.bin\n", "0 other.bin\n{sum} http://x/y/a.bin\n", "{sum} *a.bin"])
def test_checksums_in_a_file_of_their_own(site, tmp_path, form, kind):
    site.files["a.bin"] = DATA
    site.files["sums"] = form.format(sum=hashlib.new(kind, DATA).hexdigest()).encode()
    get(site.file("a.bin", sums=f"{site.address}/sums"), tmp_path / "a.bin")
    site.files["sums"] = form.format(sum=hashlib.new(kind, OTHER).hexdigest()).encode()
    with pytest.raises(ResightError, match=f"its {kind} is"):
        get(site.file("a.bin", sums=f"{site.address}/sums"), tmp_path / "a.bin")


@pytest.mark.parametrize("text", ["", "<html>", "0123  b.bin", "zz" * 16])
def test_a_checksum_file_without_the_checksum(site, tmp_path, text):
    site.files["a.bin"], site.files["sums"] = DATA, text.encode()
    with pytest.raises(ResightError, match=r"has no md5 or sha256 of a\.bin"):
        get(site.file("a.bin", sums=f"{site.address}/sums"), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_what_is_not_there_is_said_at_once(site, tmp_path):
    with pytest.raises(ResightError, match="the server says 404"):
        get(site.file("none"), tmp_path / "none")
    assert len(site.asked) == 1
    with pytest.raises(ResightError, match="fetched by hand"):
        get(File("ftp://example.org/a", "a"), tmp_path / "a")
    with pytest.raises(ResightError, match="run it again"):
        get(File("http://127.0.0.1:1/a", "a"), tmp_path / "a")


def archive(kind, **members):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as zipped:
            for name, data in members.items():
                zipped.writestr(name, data)
    else:
        with tarfile.open(fileobj=out, mode=f"w:{kind}") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(("kind", "suffix"), [("zip", "zip"), ("gz", "tgz"), ("", "tar")])
def test_unpacking(tmp_path, kind, suffix):
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(archive(kind, **{"jpg/a.jpg": b"one", "b/c/list.txt": b"two", "empty.txt": b""}))
    assert unpack(file, tmp_path / "out") == 3
    assert (tmp_path / "out/jpg/a.jpg").read_bytes() == b"one" and (
        tmp_path / "out/b/c/list.txt"
    ).read_bytes() == b"two"
    assert (tmp_path / "out/empty.txt").read_bytes() == b""
    (tmp_path / "out/b/c/list.txt").unlink()
    before = (tmp_path / "out/jpg/a.jpg").stat().st_mtime_ns
    unpack(file, tmp_path / "out")  # what is there stays
    assert (tmp_path / "out/b/c/list.txt").exists() and (tmp_path / "out/jpg/a.jpg").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:/evil"])
@pytest.mark.parametrize(("kind", "suffix"), [("zip", "zip"), ("", "tar")])
def test_a_member_that_would_leave_the_folder_is_refused_before_any_is_written(tmp_path, kind, suffix, name):
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(archive(kind, **{"good.jpg": b"one", name: b"two"}))
    with pytest.raises(ResightError, match=r"refused: its member .* outside the folder"):
        unpack(file, tmp_path / "deep/out")
    assert not (tmp_path / "deep").exists() and sorted(p.name for p in tmp_path.iterdir()) == [file.name]


def test_links_are_left_out(tmp_path):
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere")
        tar.addfile(link)
        info = tarfile.TarInfo("out/x.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"one"))
    unpack(file, tmp_path / "into")
    assert (tmp_path / "into/out/x.jpg").read_bytes() == b"one" and not (tmp_path / "into/out").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("kind", "suffix"), [("zip", "zip"), ("gz", "tgz"), ("", "tar")])
def test_a_damaged_archive_is_refused(tmp_path, kind, suffix):
    whole = archive(kind, **{f"{number}.jpg": DATA[: 10_000 + number] for number in range(5)})
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResightError, match=rf"a\.{suffix}.*remove it and get it again"):
        unpack(file, tmp_path / "out")
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(ResightError, match=rf"a\.{suffix}.*get it again"):
        unpack(file, tmp_path / "out")


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    file = tmp_path / "a.tar"
    file.write_bytes(archive("", **{"a.jpg": b"one"}))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(ResightError, match=r"0\.1 GB are needed to unpack a.tar"):
        unpack(file, tmp_path / "out")
    assert not (tmp_path / "out/a.jpg").exists()


@pytest.fixture
def published(site, tmp_path, photograph):
    """UKBench as the site would have it, two groups of it; and a file of text."""
    for number in range(8):
        photograph(tmp_path / "made" / f"ukbench{number:05d}.jpg")
    members = {f"full/{file.name}": file.read_bytes() for file in sorted((tmp_path / "made").iterdir())}
    site.files["ukbench.zip"] = archive("zip", **members)
    site.files["notes.txt"] = b"notes"
    files = (
        site.file("ukbench.zip", unpack=True, sha256=hashlib.sha256(site.files["ukbench.zip"]).hexdigest()),
        File(f"{site.address}/notes.txt", "docs/notes.txt"),
    )
    files = (replace(files[0], into=""), files[1])
    return replace(find_dataset("ukbench"), files=files, by_hand=("ask the authors",))


def test_a_set_is_got_once_and_then_loads(site, published, tmp_path):
    into = tmp_path / "set"
    found = obtain(published, into)
    assert found.fetched == tuple(file.address for file in published.files) and found.known == ()
    assert found.unverified == (f"{site.address}/notes.txt",) and found.by_hand == ("ask the authors",)
    assert (into / "docs/notes.txt").read_text() == "notes" and not (into / "ukbench.zip").exists()
    assert len(load_dataset("ukbench", into, partial=True).queries) == 8
    record = json.loads((into / "fetched.json").read_text())
    assert record[published.files[1].address] == hashlib.sha256(b"notes").hexdigest()
    site.asked.clear()
    again = obtain(published, into)
    assert (again.fetched, again.known, site.asked) == ((), found.fetched, [])


def test_archives_can_be_kept(published, tmp_path):
    obtain(published, tmp_path / "set", keep=True)
    assert (tmp_path / "set/ukbench.zip").exists()


def test_what_was_complete_stays_when_a_later_file_fails(site, published, tmp_path):
    del site.files["notes.txt"]
    with pytest.raises(ResightError, match="404"):
        obtain(published, tmp_path / "set")
    site.files["notes.txt"] = b"notes"
    site.asked.clear()
    obtain(published, tmp_path / "set")
    assert site.asked == [("notes.txt", None)]


def test_a_record_that_is_none_is_said(published, tmp_path):
    (tmp_path / "set").mkdir()
    for text in ("{", "[]"):
        (tmp_path / "set/fetched.json").write_text(text)
        with pytest.raises(ResightError, match=r"fetched\.json: .*remove it"):
            obtain(published, tmp_path / "set")


def test_every_address_can_be_fetched_or_is_by_hand():
    from resight.evaluation.datasets import DATASETS

    for dataset in DATASETS.values():
        assert dataset.files or dataset.by_hand
        for file in dataset.files:
            assert file.address.startswith(("http://", "https://")) and not file.into.startswith("/")
            assert file.unpack or file.into
            assert not file.sha256 or len(file.sha256) == 64
