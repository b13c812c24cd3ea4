"""kill -9, a full disk and Ctrl-C, done to real processes: what was committed stays, and the next run completes it."""

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from resight.search.collection import Collection

# Indexes the folder argv[2] into argv[1], two images at a time, describing in this process to be quick. Says how many
# images are committed after each batch, and kills itself in place of its argv[3]-th durable write (0: never).
INDEX = """
import os, signal, sys
from resight.search.collection import Collection
from resight.recipes.recipe import Recipe
from resight.describe.local_features import load_local
from resight.store import indexing, workers
from resight.store.store import Store

def describe_files(sources, recipe, known, **_):
    workers._recipe, workers._feedings, workers._known = recipe, (), known
    workers._local = load_local(recipe.local, recipe.name)
    yield from map(workers._describe, sources)

def counted(fsync=os.fsync, left=[int(sys.argv[3])]):
    def sync(file):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)
    return sync

def added(add=Store.add):
    def wrapper(self, *arguments):
        add(self, *arguments)
        print(self.catalogue.rows("SELECT count(*) FROM images")[0][0], flush=True)
    return wrapper

indexing.describe_files, indexing._BATCH_IMAGES, os.fsync, Store.add = describe_files, 2, counted(), added()
path, photos = sys.argv[1:3]
recipe = Recipe.model_validate_json(sys.argv[4])
with Collection.open(path, write=True) if Collection.exists(path) else Collection.create(path, recipe) as collection:
    collection.add([photos])
"""
CLI = "from resight.cli.main import main; main()"


@pytest.fixture(scope="module")
def few(tmp_path_factory, photos) -> Path:
    """Six of the photos."""
    folder = tmp_path_factory.mktemp("few")
    for name in ("astronaut-1.png", "astronaut-2.jpg", "coffee-1.png", "coffee-2.jpg", "moon.png", "rocket-1.png"):
        shutil.copy(photos / name, folder)
    return folder


def answers(path: Path, photos: Path) -> list[tuple]:
    """Everything a search of each photo finds."""
    with Collection.open(path) as collection:
        assert collection.verify() == [] and collection.info().pending == 0
        found = [collection.search(photo) for photo in sorted(photos.glob("*.*g"))]
        names = {entry.id: entry.origin for entry in collection.entries()}
    return [
        ([names[i] for i in r.ids], r.scores.tolist(), [e and e.inliers for e in r.evidence], r.accepted) for r in found
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, few, recipe) -> list[tuple]:
    path = tmp_path_factory.mktemp("uninterrupted") / "c"
    with Collection.create(path, recipe) as collection:
        collection.add([few], workers=1)
    return answers(path, few)


@pytest.mark.parametrize("moment", [1, 5, 12, 14, 17, 20])
def test_killed_at_any_durable_write_it_keeps_what_it_committed_and_goes_on(
    tmp_path, few, recipe, python, in_this_process, uninterrupted, moment
):
    path, text = tmp_path / "c", recipe.model_dump_json(by_alias=True)
    process = python(INDEX, path, few, moment, text)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    committed = int((out.split() or ["0"])[-1])
    assert Collection.exists(path) or committed == 0
    if Collection.exists(path):
        with Collection.open(path) as collection:  # a reader comes first
            assert collection.verify() == [] and len(collection) >= committed
    with (
        Collection.open(path, write=True) if Collection.exists(path) else Collection.create(path, recipe) as collection
    ):
        collection.add([few])
    assert answers(path, few) == uninterrupted


def test_the_moments_reach_from_the_first_write_to_the_last(tmp_path, few, recipe, python):
    """So that the test above is about every stage: making, describing, learning, encoding."""
    path, text = tmp_path / "c", recipe.model_dump_json(by_alias=True)
    process = python(INDEX.replace("left[0] == 0", "print(-left[0], flush=True)"), path, few, 0, text)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and int(out.split()[-1]) == 20


@pytest.mark.parametrize("limit", [20_000, 150_000])
def test_a_full_disk_is_said_and_got_over(tmp_path, few, python, in_this_process, limit):
    """No file may grow beyond a limit: the catalogue, or the features, cannot be written."""
    path = tmp_path / "c"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    process = python(limited + CLI, "index", few, "--into", path, "--workers", 1, "-q")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in err
    assert "cannot be written" in err or "Make room" in err, err
    if Collection.exists(path):
        with Collection.open(path) as collection:
            assert collection.verify() == []
    with Collection.open(path, write=True) if Collection.exists(path) else Collection.create(path) as collection:
        collection.add([few])
        assert collection.verify() == [] and len(collection) == 6
        assert collection.search(few / "coffee-1.png").accepted == 2


@pytest.fixture
def reading(tmp_path, few, large, python, reader_of):
    """An index run by the command line, caught while a worker reads the last and largest file: process and worker."""
    folder = tmp_path / "photos"
    shutil.copytree(few, folder)
    large.rename(folder / "z.png")
    process = python(CLI, "index", folder, "--into", tmp_path / "c", "--workers", 1)
    for _ in range(20_000):
        if process.poll() is not None:
            pytest.fail(f"it ended by itself: {process.communicate()}")
        if worker := reader_of(folder / "z.png", process.pid):
            return process, worker
        time.sleep(0.001)
    return pytest.fail("the large file was never read")


def test_ctrl_c_keeps_what_is_described_and_says_so(tmp_path, few, reading):
    process, worker = reading
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    assert "stopped. 6 images are safe in" in err and "the same command goes on from here" in err
    assert not worker.is_running()
    (tmp_path / "photos/z.png").unlink()
    with Collection.open(tmp_path / "c", write=True) as collection:
        assert collection.add([tmp_path / "photos"]).unchanged == 6
        assert collection.verify() == [] and collection.search(few / "coffee-1.png").accepted == 2


def test_workers_do_not_outlive_a_parent_that_was_killed(tmp_path, few, reading, recipe):
    process, worker = reading
    process.kill()
    process.wait(10)
    try:
        worker.wait(10)
    except psutil.TimeoutExpired:
        pytest.fail("the worker goes on without its parent")
    with Collection.open(tmp_path / "c", write=True) as collection:
        assert collection.verify() == [] and len(collection) == 0
        assert collection.add([few], workers=1).added == 6


def test_no_lock_outlives_its_process(tmp_path, recipe, python):
    Collection.create(tmp_path / "c", recipe).close()
    program = (
        "import os, sys; from resight.search.collection import Collection as C; c = C.open(sys.argv[1], write=True)"
    )
    assert python(f"{program}; os._exit(0)", tmp_path / "c").wait(60) == 0
    Collection.open(tmp_path / "c", write=True).close()
