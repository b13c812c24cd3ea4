"""Folders and archives that nobody vouches for, indexed as a user would: each file is read or named with a reason."""

import itertools
import json
import re
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import bombs
import mutate
import pytest
import tomli_w

from resight.images.sources import Source
from resight.processes import MEMORY
from resight.recipes import load_recipe
from resight.recipes.recipe import recipe_text
from resight.search.collection import Collection
from resight.store.workers import describe_files

_RUN = """
import json, re, resource, sys
from resight.cli.main import main
try:
    main()
finally:
    # Not by getrusage, which counts what this process was before it became a Python: a copy of the one that began it.
    own = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
    peaks = [1024 * kib for kib in (own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)]
    open({mark!r}, "w").write(json.dumps(peaks))
"""
_CONTROLS = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]")
"""What steers a terminal: C0, C1, and the directions of text."""


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """The default recipe with few features of small pictures and few words, as a file."""
    table = tomllib.loads(recipe_text("rootsift-asmk"))
    table["image"] = table.get("image", {}) | {"max_side": 64}
    table["local"] |= {"max_features": 40, "colours": 0}
    table["codebook"] |= {"words": 16}
    file = tmp_path_factory.mktemp("quick") / "quick.toml"
    file.write_text(tomli_w.dumps(table))
    return file


@pytest.fixture
def resight(tmp_path):
    """Runs a command: its exit status, what it printed, and the peaks of its own memory and of its processes'."""

    def run(*arguments: object) -> tuple[int, bytes, list[int]]:
        mark = tmp_path / "peaks.json"
        command = [sys.executable, "-c", _RUN.format(mark=str(mark)), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, timeout=3000, check=False)
        printed = done.stdout + done.stderr
        assert not _CONTROLS.search(printed), _CONTROLS.search(printed)
        return done.returncode, printed, json.loads(mark.read_text())

    return run


def check(into: Path, files: int, status: int, printed: bytes, peaks: list[int]) -> tuple[int, int]:
    """What must be true of every run: images and failures, which are as many as there were files."""
    assert status == 0, printed[-2000:]
    own, children = peaks
    assert own < 2**30 and children < MEMORY + 2**30, peaks
    with Collection.open(into) as collection:
        failures = list(collection.failures())
        assert all(failure.reason and failure.reason.isprintable() for failure in failures)
        unforeseen = [failure for failure in failures if "unforeseen" in failure.reason]
        assert not unforeseen
        assert len(collection) + len(failures) == files
        assert collection.verify() == []
        return len(collection), len(failures)


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("tried", [120, pytest.param(20_000, marks=pytest.mark.torture)])
def test_a_folder_of_broken_pictures(tmp_path, quick, resight, count, tried):
    for at, (suffix, data) in enumerate(itertools.islice(mutate.mutants(mutate.pictures(), 1), tried)):
        # Each its own, so that none is taken for a copy: behind the end, where no decoder looks.
        write(tmp_path / f"in{at // 2000}", {f"{at:05}.{suffix}": data + at.to_bytes(4, "big")})
    folders = sorted(tmp_path.glob("in*"))
    done = resight("index", *folders, "--into", tmp_path / "c", "--recipe", quick, "--workers", 1, "--quiet")
    images, failures = check(tmp_path / "c", tried, *done)
    assert images > tried / 10 and failures > tried / 10
    count(f"{tried:,} broken pictures: {images:,} read, {failures:,} named, peak {done[2][1] >> 20} MiB")


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.torture)])
def test_bombs_strange_names_links_and_devices(tmp_path, quick, resight, count, whole):
    folder, found = tmp_path / "in", bombs.pictures(14_000 if whole else 1000)
    write(folder, found)
    strange = bombs.strange_files(folder)
    status, printed, peaks = resight("index", folder, "--into", tmp_path / "c", "--recipe", quick, "--workers", 1)
    images, failures = check(tmp_path / "c", len(found) + strange, status, printed, peaks)
    with Collection.open(tmp_path / "c") as collection:
        reasons = {Path(failure.origin).name: failure.reason for failure in collection.failures()}
    assert not [name for name in reasons if name.startswith("sound")]
    assert {"zero.jpg", "pipe.jpg", "s.jpg", "loop.jpg", "nowhere.jpg", "sparse.jpg"} <= reasons.keys()
    assert "not valid UTF-8" in reasons["not \\udcff\\udcfe utf-8.jpg"]
    for verb, *more in [["failures"], ["search", folder / "sound-loop.tif"]][: 1 + whole]:
        status, printed, _ = resight(verb, tmp_path / "c", *more)
        assert status == 0, printed
    count(f"{len(found) + strange} bombs and strange files: {images} read, {failures} named, peak {peaks[1] >> 20} MiB")


@pytest.mark.parametrize("tried", [15, pytest.param(3000, marks=pytest.mark.torture)])
def test_broken_archives(tmp_path, quick, resight, count, tried):
    found = mutate.archives([mutate.picture("RGB", "JPEG", quality=quality) for quality in (50, 60, 70)])
    for at, (suffix, data) in enumerate(itertools.islice(mutate.mutants(found, 2), tried)):
        write(tmp_path / "in", {f"{at:05}.{suffix}": data})
    paths = sorted((tmp_path / "in").iterdir())
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    status, printed, peaks = resight(
        "index", f"@{tmp_path / 'list.txt'}", "--into", tmp_path / "c", "--recipe", quick, "--workers", 1, "--quiet"
    )
    with Collection.open(tmp_path / "c") as collection:
        origins = [entry.origin for entry in collection.entries()]
        failures = [failure.origin for failure in collection.failures()]
    check(tmp_path / "c", len(origins) + len(failures), status, printed, peaks)
    spoken = {origin.partition("!/")[0] for origin in (*origins, *failures)}
    unspoken = [path for path in paths if str(path) not in spoken]
    assert not [path.name for path in unspoken if holds_something(path)]
    count(f"{tried:,} broken archives: {len(origins):,} pictures read, {len(failures):,} named, {len(unspoken)} empty")


def holds_something(path: Path) -> bool:
    """Whether the standard library sees a picture in an archive, or something wrong with it."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as box:
                names = box.namelist()
        else:
            with tarfile.open(path) as tar:
                names = [member.name for member in tar if member.isreg()]
    except Exception:
        return True
    return any(name.endswith(".jpg") and "/." not in f"/{name}" for name in names)


@pytest.mark.torture
def test_bombs_in_archives(tmp_path, quick, resight, count):
    found = bombs.archives()
    write(tmp_path / "in", found)
    paths = sorted((tmp_path / "in").iterdir())
    done = resight("index", *paths, "--into", tmp_path / "c", "--recipe", quick, "--workers", 1, "--quiet")
    with Collection.open(tmp_path / "c") as collection:
        origins = [entry.origin for entry in collection.entries()]
        failures = [failure.origin for failure in collection.failures()]
    check(tmp_path / "c", len(origins) + len(failures), *done)
    for path in paths:
        lost = path.name.startswith("lost")
        assert (f"{path}!/in/sound.jpg" in origins) != lost and (str(path) in failures) == lost
    assert not list(tmp_path.parent.rglob("outside.jpg")) and not Path("/etc/outside.jpg").exists()
    count(f"{len(found)} bombs in archives: {len(origins)} pictures read, {len(failures)} named")


@pytest.mark.torture
def test_a_picture_that_takes_too_long_is_ended(tmp_path, quick):
    """64 million pixels, drawn 3000 times over, in half a megabyte."""
    path = tmp_path / "slow.jpg"
    path.write_bytes(bombs.slow_jpeg(8000, 3000))
    began = time.monotonic()
    (outcome,) = describe_files([Source(str(path), 1, 1)], load_recipe(quick), frozenset(), workers=1, timeout=5)
    assert outcome.reason == "took longer than 5 s to read and describe"
    assert time.monotonic() - began < 30
