"""Worker processes as they really are: slow, killed, hanging and outlived files end as named failures."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from resight.images.read import digest
from resight.images.sources import Source
from resight.store.workers import describe_files


def source(path: Path) -> Source:
    status = path.stat()
    return Source(str(path), status.st_size, status.st_mtime_ns)


def children() -> set[psutil.Process]:
    """Of this process, those that wait for work; not the one that multiprocessing keeps for itself."""
    return {child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())}


@pytest.fixture
def workers() -> Callable[[], set[psutil.Process]]:
    """Finds the children that were not there when the test began."""
    before = children()
    return lambda: children() - before


def test_outcomes_come_in_order_and_name_what_failed(photos, recipe, tmp_path, workers):
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    known = photos / "coffee-1.png"
    paths = [photos / "rocket-1.png", tmp_path / "broken.jpg", tmp_path / "pipe.jpg", known, photos / "moon.png"]
    contents = frozenset([digest(known.read_bytes())])
    outcomes = list(describe_files(map(source, paths), recipe, contents, workers=2, timeout=60))
    assert [Path(o.source.origin) for o in outcomes] == paths
    rocket, broken, pipe, coffee, moon = outcomes
    assert rocket.reason is None and rocket.size == (320, 214) and len(rocket.local) > 50
    assert "not an image" in broken.reason and pipe.reason == "it is not a regular file"
    assert coffee.reason is None and coffee.size is None and coffee.digest in contents
    assert moon.size == (320, 320) and moon.views is None
    assert not workers()


def test_a_file_that_takes_too_long_costs_only_itself(large, recipe, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    paths = [large, tmp_path / "broken.jpg"]
    slow, broken = describe_files(map(source, paths), recipe, frozenset(), workers=1, timeout=0.2)
    assert slow.reason == "took longer than 0.2 s to read and describe"
    assert "not an image" in broken.reason


def kill_the_reader(reader_of, path: Path, given_up: threading.Event) -> None:
    """As a crash in a decoder would."""
    while not given_up.wait(0.001):
        if reader := reader_of(path, os.getpid()):
            reader.kill()
            return


def test_a_file_that_kills_its_worker_costs_only_itself(large, photos, recipe, reader_of):
    given_up = threading.Event()
    killer = threading.Thread(target=kill_the_reader, args=[reader_of, large, given_up])
    killer.start()
    try:
        paths = [photos / "moon.png", large, photos / "coffee-1.png", photos / "rocket-1.png"]
        outcomes = list(describe_files(map(source, paths), recipe, frozenset(), workers=1, timeout=60))
    finally:
        given_up.set()
        killer.join()
    assert [o.reason for o in outcomes] == [None, "killed the process that read it (exit code -9)", None, None]


@pytest.mark.parametrize("taken", [0, 1])
def test_workers_end_when_the_run_is_given_up(photos, recipe, taken, workers):
    outcomes = describe_files(map(source, sorted(photos.glob("*.png"))), recipe, frozenset(), workers=2, timeout=60)
    for _ in range(taken):
        assert next(outcomes).reason is None
    outcomes.close()
    assert not workers()
