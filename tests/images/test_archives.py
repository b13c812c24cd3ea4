"""Reading members: damage, encryption, bombs, changed archives, forks, and the cost of a forward pass."""

import gzip
import io
import multiprocessing
import os
import struct
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from resight.errors import ImageError
from resight.images import archives, covers, find_sources, load, read_image

BODIES = {f"{i:03}.jpg": bytes([i]) * (1000 + i) for i in range(50)}


def write_tar(path, bodies, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, body in bodies.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))


def write_zip(path, bodies, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, body in bodies.items():
            archive.writestr(name, body)


@pytest.fixture(params=["zip", "tar", "tgz"])
def box(request, tmp_path):
    path = tmp_path / f"box.{request.param}"
    if request.param == "zip":
        write_zip(path, BODIES)
    else:
        write_tar(path, BODIES, "w:gz" if request.param == "tgz" else "w")
    return path


def listing(path):
    problems = []
    sources = find_sources([path], on_problem=lambda *problem: problems.append(problem))
    return [source.origin.removeprefix(f"{path}!/") for source in sources], problems


def test_members_in_any_order(box):
    for name in [*BODIES, *reversed(BODIES), "007.jpg", "007.jpg"]:
        assert load(f"{box}!/{name}") == BODIES[name]
    with pytest.raises(ImageError, match="no such member"):
        load(f"{box}!/gone.jpg")


def test_members_from_many_threads(box):
    with ThreadPoolExecutor(4) as pool:
        bodies = pool.map(lambda name: load(f"{box}!/{name}"), list(BODIES) * 3)
    assert list(bodies) == list(BODIES.values()) * 3


@pytest.fixture
def large(tmp_path):
    """A compressed tar far longer than any read buffer."""
    rng = np.random.default_rng(0)
    bodies = {f"{i}.jpg": rng.bytes(50_000) for i in range(20)}
    path = tmp_path / "large.tar.gz"
    write_tar(path, bodies, "w:gz")
    return path, bodies


def _load_in_child(origin, queue):
    queue.put(load(origin))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_move_its_parents_files(large):
    path, bodies = large
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    load(f"{path}!/1.jpg")
    child = context.Process(target=_load_in_child, args=(f"{path}!/15.jpg", queue))
    child.start()
    assert queue.get(timeout=10) == bodies["15.jpg"]
    child.join()
    for name in list(bodies)[2:]:  # onward, since going back would seek and so hide it
        assert load(f"{path}!/{name}") == bodies[name]


def test_a_changed_archive_is_reopened(box):
    assert load(f"{box}!/001.jpg") == BODIES["001.jpg"]
    if box.suffix == ".zip":
        write_zip(box, {"001.jpg": b"new", "extra.jpg": b"e"})
    else:
        write_tar(box, {"001.jpg": b"new", "extra.jpg": b"e"}, "w:gz" if box.suffix == ".tgz" else "w")
    assert load(f"{box}!/001.jpg") == b"new"
    assert load(f"{box}!/extra.jpg") == b"e"
    box.unlink()
    with pytest.raises(ImageError, match="does not exist"):
        load(f"{box}!/001.jpg")


def test_few_archives_stay_open(tmp_path):
    for i in range(20):
        write_zip(tmp_path / f"{i}.zip", {"a.jpg": bytes([i + 1])})
    open_files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None  # noqa: PTH208, PTH112
    for _ in range(2):
        for i in range(20):
            assert load(f"{tmp_path}/{i}.zip!/a.jpg") == bytes([i + 1])
    if open_files is not None:
        assert len(os.listdir("/proc/self/fd")) <= open_files + 8  # noqa: PTH208


def test_a_forward_reader_decompresses_a_tar_once(large, monkeypatch):
    path, bodies = large
    taken = 0

    class Counting(io.FileIO):
        def read(self, size=-1):
            nonlocal taken
            data = super().read(size)
            taken += len(data)
            return data

    monkeypatch.setattr(archives, "_decompressed", lambda path: gzip.GzipFile(fileobj=Counting(path)))
    for name, body in bodies.items():
        assert load(f"{path}!/{name}") == body
    assert taken <= path.stat().st_size


def test_the_limit_is_checked_before_unpacking(tmp_path):
    bomb = {"bomb.jpg": bytes(50_000_000), "small.jpg": b"x"}
    write_zip(tmp_path / "b.zip", bomb)
    write_tar(tmp_path / "b.tgz", bomb, "w:gz")
    for name in ("b.zip", "b.tgz"):
        tracemalloc.start()
        with pytest.raises(ImageError, match=r"50,000,000 bytes are more than the limit of 1,000"):
            load(f"{tmp_path}/{name}!/bomb.jpg", limit=1000)
        assert load(f"{tmp_path}/{name}!/small.jpg", limit=1000) == b"x"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()


def test_a_zip_that_lies_about_a_length_fails(tmp_path):
    path = tmp_path / "b.zip"
    write_zip(path, {"a.jpg": bytes(100_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 100_000), struct.pack("<I", 10)))
    with pytest.raises(ImageError, match="cannot be read"):
        load(f"{path}!/a.jpg")


def test_an_encrypted_member_is_reported(tmp_path):
    path = tmp_path / "b.zip"
    write_zip(path, {"a.jpg": b"abc", "b.jpg": b"def"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of the first member in the central directory
    path.write_bytes(data)
    names, problems = listing(path)
    assert names == ["b.jpg"]
    assert problems[0][0] == f"{path}!/a.jpg"
    assert "password" in problems[0][1]
    with pytest.raises(ImageError, match="encrypted"):
        load(f"{path}!/a.jpg")


def test_no_archive_at_all_is_reported(tmp_path):
    for name in ("b.zip", "b.tar", "b.tar.gz", "b.txz", "b.tar.bz2"):
        path = tmp_path / name
        path.write_bytes(b"this is not an archive" * 50)
        names, problems = listing(path)
        assert names == []
        assert [origin for origin, _ in problems] == [str(path)]
        with pytest.raises(ImageError, match="archive"):
            load(f"{path}!/a.jpg")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_what_precedes_the_damage_in_a_tar_is_still_found(tmp_path, mode):
    rng = np.random.default_rng(0)
    bodies = {f"{i}.jpg": rng.bytes(3000) for i in range(10)}
    path = tmp_path / ("b.tar" if mode == "w" else "b.tar.gz")
    write_tar(path, bodies, mode)
    path.write_bytes(path.read_bytes()[:17_000])
    names, problems = listing(path)
    assert 3 <= len(names) < 10
    assert names == list(bodies)[: len(names)]
    assert [origin for origin, _ in problems] == [str(path)]
    assert "truncated" in problems[0][1]
    assert load(f"{path}!/0.jpg") == bodies["0.jpg"]
    with pytest.raises(ImageError):
        load(f"{path}!/9.jpg")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = tmp_path / "b.tar"
    write_tar(path, BODIES)
    data = bytearray(path.read_bytes())
    header = data.index(b"010.jpg")
    data[header : header + 100] = b"\xaa" * 100
    path.write_bytes(data)
    names, problems = listing(path)
    assert names == list(BODIES)[:10]
    assert "damaged" in problems[0][1]


def test_the_last_of_equal_names_counts_in_a_tar(tmp_path):
    path = tmp_path / "b.tar"
    write_tar(path, {"a.jpg": b"old", "b.jpg": b"b"})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("a.jpg")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"newer"))
    assert listing(path)[0] == ["a.jpg", "b.jpg"]
    assert load(f"{path}!/a.jpg") == b"newer"


def test_links_in_archives_lead_nowhere(tmp_path):
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert listing(tmp_path / "b.tar") == ([], [])
    assert listing(tmp_path / "b.zip") == ([], [])


def test_a_traversing_name_reads_the_member_and_no_file(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    write_zip(inner / "b.zip", {"../../secret.jpg": b"member", "/etc/hosts.jpg": b"hosts"})
    assert listing(inner / "b.zip")[0] == ["../../secret.jpg", "/etc/hosts.jpg"]
    assert load(f"{inner}/b.zip!/../../secret.jpg") == b"member"
    assert load(f"{inner}/b.zip!//etc/hosts.jpg") == b"hosts"
    with pytest.raises(ImageError, match="no such member"):
        load(f"{inner}/b.zip!/../secret.jpg")
    assert covers([inner / "b.zip"])(f"{inner}/b.zip!/../../secret.jpg")


def test_a_picture_in_an_archive_is_read_by_its_origin(tmp_path):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (6, 4), (1, 2, 3)).save(buffer, "PNG")
    write_zip(tmp_path / "b.zip", {"dir/a.png": buffer.getvalue()})
    image = read_image(f"{tmp_path}/b.zip!/dir/a.png")
    assert image.origin == f"{tmp_path}/b.zip!/dir/a.png"
    assert image.pixels[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("origin", "parts"),
    [
        ("/a/b.zip!/c.jpg", ("/a/b.zip", "c.jpg")),
        ("/a/B.Tar.Gz!/c/d.jpg", ("/a/B.Tar.Gz", "c/d.jpg")),
        ("/a/b.zip!/c.zip!/d.jpg", ("/a/b.zip", "c.zip!/d.jpg")),
        ("/a/b!/c.jpg", None),
        ("/a/b.zip", None),
        ("/a/b.zip!/", None),
    ],
)
def test_split_member(origin, parts):
    assert archives.split_member(origin) == parts


def test_headers_of_a_tar_are_bounded(tmp_path):
    """A header that says it is of 64 MB, and is, in a file of 65 kB; and one of 3000 after each other."""
    long_name = tarfile.TarInfo("a")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2**26
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(long_name.tobuf() + bytes(2**26)))
    long_name.size = 512
    (tmp_path / "c.tar").write_bytes(long_name.tobuf() * 3000)
    for name in ("b.tar.gz", "c.tar"):
        names, ((_, reason),) = listing(tmp_path / name)
        assert names == [] and "headers of a member are of more than 262,144 bytes" in reason


@pytest.mark.parametrize(
    ("size", "said"), [(b"\xff" * 10 + b"\xfc\0", "negative"), (b"\x80" + b"\x7f" * 11, "cannot be")]
)
def test_lengths_that_cannot_be_are_named(tmp_path, size, said):
    """In base 256, as GNU tar has it: backwards, so that reading on comes round again, and beyond any disk."""
    first, second = (bytearray(tarfile.TarInfo(name).tobuf()) for name in ("a.jpg", "b.jpg"))
    second[124:136] = size
    second[148:156] = b"%06o\0 " % (sum(second[:148]) + 8 * 32 + sum(second[156:]))
    (tmp_path / "b.tar").write_bytes(first + second + bytes(1024))
    names, problems = listing(tmp_path / "b.tar")
    assert names == ["a.jpg"] and any(said in reason for _, reason in problems)


def test_a_zip_member_without_a_name_is_passed_over(tmp_path):
    write_zip(tmp_path / "b.zip", {"a.jpg": b"a", "b.jpg": b"b"})
    data = bytearray((tmp_path / "b.zip").read_bytes())
    entry = data.rindex(b"PK\1\2")
    data[entry + 28 : entry + 34] = struct.pack("<HHH", 0, 0, 5)  # its name is a comment now
    (tmp_path / "b.zip").write_bytes(data)
    assert listing(tmp_path / "b.zip") == (["a.jpg"], [])
