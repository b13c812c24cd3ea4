"""find_sources and covers on folders, lists, patterns and archives made on the spot."""

import glob
import io
import os
import subprocess
import sys
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.errors import ResightError
from resight.images import Source, covers, find_sources


def fail(origin, reason):
    pytest.fail(f"{origin}: {reason}")


def found(*paths, on_problem=fail):
    return [source.origin for source in find_sources(paths, on_problem=on_problem)]


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "photos"
    make(folder, "b.JPG", "a/z.png", "a/y y.jpeg", "a/deep/x.tif", "c\n\N{SNOWMAN}.webp", "notes.txt", "noext")
    make(folder, ".hidden.jpg", ".cache/h.jpg", "a/.thumbs/h.jpg", "shard.zip")
    return folder


VISIBLE = ["a/deep/x.tif", "a/y y.jpeg", "a/z.png", "b.JPG", "c\n\N{SNOWMAN}.webp"]


def test_a_folder_in_order_without_hidden_files(tree):
    assert found(tree) == [f"{tree}/{name}" for name in VISIBLE]
    source = next(iter(find_sources([tree], on_problem=fail)))
    status = (tree / "a/deep/x.tif").stat()
    assert source == Source(f"{tree}/a/deep/x.tif", status.st_size, status.st_mtime_ns)


def test_relative_paths_become_absolute_and_normal(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert found("./a/../b.JPG") == [f"{tree}/b.JPG"]
    assert found("a/deep/..") == [f"{tree}/a/{n}" for n in ("deep/x.tif", "y y.jpeg", "z.png")]


def test_a_named_file_is_taken_whatever_its_name(tree):
    assert found(tree / "noext", tree / ".hidden.jpg") == [f"{tree}/noext", f"{tree}/.hidden.jpg"]


def test_nothing_twice(tree):
    once = [f"{tree}/{name}" for name in VISIBLE]
    assert sorted(found(tree / "a", tree, tree / "b.JPG", f"{tree}/**/*.png")) == sorted(once)


def test_links_are_followed_but_not_in_circles(tree):
    (tree / "a/loop").symlink_to(tree)
    (tree / "a/deep/up").symlink_to("..")
    (tree / "link.jpg").symlink_to("b.JPG")
    assert found(tree) == sorted([*(f"{tree}/{name}" for name in VISIBLE), f"{tree}/link.jpg"])
    assert len(found(f"{tree}/**/*.tif")) == 1


def test_a_broken_link_and_a_closed_folder_are_reported(tree, monkeypatch):
    (tree / "gone.jpg").symlink_to("nowhere.jpg")
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    problems = []
    origins = found(tree, on_problem=lambda *problem: problems.append(problem))
    assert origins == [f"{tree}/{name}" for name in VISIBLE if "deep" not in name]
    assert [origin for origin, _ in problems] == [f"{tree}/a/deep", f"{tree}/gone.jpg"]
    assert "Permission denied" in problems[0][1]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_name_that_is_not_utf8_is_reported(tree):
    (tree / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    problems = []
    assert len(found(tree, on_problem=lambda *problem: problems.append(problem))) == len(VISIBLE)
    ((origin, reason),) = problems
    assert origin.encode() and "caf\\udce9.jpg" in origin
    assert "rename" in reason


def test_what_is_missing_is_said_before_anything_is_found(tree):
    for bad in (tree / "gone", f"{tree}/*.gif", "@" + str(tree / "gone.txt"), f"{tree}/gone.zip!/a.jpg"):
        with pytest.raises(ResightError, match="no "):
            find_sources([tree, bad], on_problem=fail)


def test_patterns(tree):
    assert found(f"{tree}/*.[jJ][pP][gG]") == [f"{tree}/b.JPG"]
    assert found(f"{tree}/**/?.*") == [f"{tree}/{n}" for n in ("a/deep/x.tif", "a/z.png", "b.JPG")]
    assert found(f"{tree}/[a]") == found(tree / "a")
    make(tree, "odd[1].jpg")
    assert found(tree / "odd[1].jpg") == [f"{tree}/odd[1].jpg"]  # a file of that name comes first


def test_a_pattern_below_a_folder_with_wildcards_in_its_name(tmp_path, monkeypatch):
    make(tmp_path / "set [1]", "a.jpg")
    monkeypatch.chdir(tmp_path / "set [1]")
    assert found("*.jpg") == [f"{tmp_path}/set [1]/a.jpg"]


def test_lists(tree, tmp_path, monkeypatch):
    lines = ["photos/noext\r", "", f"{tree}/a", "photos/b.JPG", "photos/gone.jpg", "photos/b.JPG"]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    expected = [f"{tree}/{n}" for n in ("noext", "a/deep/x.tif", "a/y y.jpeg", "a/z.png", "b.JPG")]
    problems = []
    assert found(f"@{tmp_path}/list.txt", on_problem=lambda *p: problems.append(p)) == expected
    assert problems == [(f"{tree}/gone.jpg", "no such file or folder; check the path")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert found("-", on_problem=lambda *p: None) == expected
    assert not sys.stdin.closed


def write_zip(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)


def write_tar(path, names, mode):
    with tarfile.open(path, mode) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            archive.addfile(info, io.BytesIO(name.encode()))


MEMBERS = [
    "z.jpg",
    "dir/",
    "dir/a b.png",
    "dir/.h.jpg",
    "__MACOSX/z.jpg",
    "readme.txt",
    "../../up.jpg",
    "./é.tif",
]
WANTED = ["z.jpg", "dir/a b.png", "../../up.jpg", "./é.tif"]


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "TGZ", "tar.bz2", "tar.xz"])
def test_archives(tmp_path, suffix):
    path = tmp_path / f"box.{suffix}"
    names = [name for name in MEMBERS if not name.endswith("/")]
    if suffix == "zip":
        write_zip(path, MEMBERS)
    else:
        mode = {"tar": "w", "tar.gz": "w:gz", "TGZ": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}[suffix]
        write_tar(path, names, mode)
    sources = list(find_sources([path], on_problem=fail))
    assert [source.origin for source in sources] == [f"{path}!/{name}" for name in WANTED]
    assert [source.bytes for source in sources] == [len(name.encode()) for name in WANTED]
    assert {source.modified_ns for source in sources} == {path.stat().st_mtime_ns}
    assert found(f"{path}!/readme.txt") == [f"{path}!/readme.txt"]  # named, so taken
    assert found(f"{tmp_path}/*.{suffix}") == found(path) == found(f"{tmp_path}/**/box.*")
    assert sorted(os.listdir(tmp_path)) == [path.name]  # noqa: PTH208


def test_a_list_may_name_members(tmp_path):
    write_zip(tmp_path / "box.zip", ["a.jpg"])
    (tmp_path / "list.txt").write_text("box.zip!/a.jpg\nbox.zip!/b.jpg\n")
    problems = []
    assert found(f"@{tmp_path}/list.txt", on_problem=lambda *p: problems.append(p)) == [f"{tmp_path}/box.zip!/a.jpg"]
    assert problems == [(f"{tmp_path}/box.zip!/b.jpg", "the archive has no such member")]


def test_covers_tells_what_vanished(tree, tmp_path):
    write_zip(tmp_path / "box.zip", ["a.jpg"])
    (tmp_path / "list.txt").write_text("photos/noext\nphotos/gone.jpg\n")
    covered = covers([tree, tmp_path / "box.zip", tmp_path / "single.dat", f"@{tmp_path}/list.txt", "-"])
    for inside in ("photos/vanished.jpg", "photos/x/y/z.png", "box.zip!/was/here.jpg", "single.dat"):
        assert covered(f"{tmp_path}/{inside}")
    for inside in ("photos/noext", "photos/gone.jpg"):
        assert covered(f"{tmp_path}/{inside}")
    for outside in (
        "photos2/a.jpg",
        "other.jpg",
        "photos/.hidden.jpg",  # never found in a folder, so it cannot be missed there
        "photos/.cache/a.jpg",
        "photos/added by name.dat",
        "photos/shard.zip!/a.jpg",
        "box.zip",
        "box.zip!/__MACOSX/a.jpg",
        "box.zip2!/a.jpg",
    ):
        assert not covered(f"{tmp_path}/{outside}"), outside


FOLDERS = st.lists(st.sampled_from(["a", "b", ".h"]), max_size=2)
FILES = st.tuples(FOLDERS, st.sampled_from(["a.jpg", "b.png", ".h.jpg", "t.txt"]))
PATTERNS = st.lists(st.sampled_from(["a", "*", "**", "?", ".*", "[!a]*", "*.jpg", "b.png"]), min_size=1, max_size=3)


@settings(max_examples=80, deadline=None)
@given(st.lists(FILES, max_size=12), PATTERNS)
def test_covers_agrees_with_what_is_found(tmp_path_factory, files, pattern):
    base = tmp_path_factory.mktemp("glob")
    for folders, name in files:
        make(base.joinpath(*folders), name)
    text = str(base.joinpath(*pattern))
    try:
        origins = set(found(text))
    except ResightError:
        origins = set()
    covered = covers([text])
    assert {str(p) for p in base.rglob("*") if p.is_file() and covered(str(p))} == origins


@settings(max_examples=80, deadline=None)
@given(st.lists(FILES, max_size=12), PATTERNS)
def test_patterns_match_what_the_standard_library_matches(tmp_path_factory, files, pattern):
    base = tmp_path_factory.mktemp("glob")
    for folders, name in files:
        make(base.joinpath(*folders), name)
    text = str(base.joinpath(*pattern))
    expected = set()
    for match in glob.glob(text, recursive=True):  # noqa: PTH207
        pictures = found(match) if os.path.isdir(match) else [match]  # noqa: PTH112
        expected |= {os.path.normpath(p) for p in pictures if p.endswith((".jpg", ".png"))}
    try:
        assert set(found(text)) == expected
    except ResightError:
        assert not expected


def test_importing_needs_neither_network_nor_opencv():
    code = "import sys, resight.images; assert not {'torch', 'cv2', 'faiss'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pipes_and_devices_named_like_pictures_are_not_passed_over(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.zip")
    problems = []
    assert found(tmp_path, on_problem=fail) == [f"{tmp_path}/pipe.jpg", f"{tmp_path}/zero.jpg"]
    assert found(tmp_path / "pipe.zip", on_problem=lambda *problem: problems.append(problem)) == []
    assert problems == [(f"{tmp_path}/pipe.zip", "it is not a regular file")]
