"""Disks that fill up, may not be written, or go away, and files that are cut off beneath a reader."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import killing
import mounts
import pytest
from broken_works import BROKEN, nearest, searched
from killing import Tell

from resight.describe.local_features import load_local
from resight.errors import CollectionError, ResightError
from resight.search.collection import Collection
from resight.store import indexing, workers
from resight.store.catalogue import FILE
from resight.store.store import Store

pytestmark = pytest.mark.usefixtures("here")
NAMES = tuple(name for name in BROKEN if name != "remove")


OF_STORE = ("vectors", "swap", "grow", "hash", "rehash")


def told(trials, name: str, path: Path, tell: Tell) -> None:
    """Do a work, and tell the error that a user would read; what is no such error ends the child."""
    try:
        trials.works[name].do(path, trials.album, tell)
    except ResightError as error:
        tell(f"error {error}".replace("\n", " "))
    except OSError as error:  # which a collection turns into the above
        if name not in OF_STORE:
            raise
        tell(f"error {path}: {error.strerror}")


def needs_mounts(tmp_path: Path) -> None:
    with mounts.small_disk(tmp_path / "tried"):
        pass


def fill(trials, name: str, disk: Path, free: int) -> bool:
    """A work on a disk with so many bytes left, and again with room. Whether there was too little."""
    work, (_, expected, _) = trials.works[name], trials.unbroken(name)
    path = trials.based(name, disk / "c")
    filler = mounts.leave_free(disk, free)
    run = killing.run(lambda tell: told(trials, name, path, tell))
    failed = [line for line in run.told if line.startswith("error ")]
    assert all(str(path) in line for line in failed), failed
    trials.check(name, path, run)
    if work.at_once and work.base is not None:
        assert work.answers(path, trials.album) in (trials.unbroken(work.base)[1], expected)
    filler.unlink()
    killing.run(lambda tell: work.do(path, trials.album, tell))
    assert work.answers(path, trials.album) == expected
    shutil.rmtree(path)
    return bool(failed)


def test_a_full_disk_loses_nothing(trials, tmp_path):
    with mounts.small_disk(tmp_path / "disk") as disk:
        assert fill(trials, "add", disk, 40_000) and fill(trials, "swap", disk, 12_000)


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_full_after_every_number_of_pages(trials, tmp_path, count, name):
    most = {"upgrade": 500_000, "reword": 500_000}.get(name, 220_000 if name in ("index", "add", "refit") else 60_000)
    tried = range(0, most, most // 16)
    with mounts.small_disk(tmp_path / "disk") as disk:
        full = sum(fill(trials, name, disk, free) for free in tried)
    count(f"{name}: {len(tried)} trials with 0 to {most:,} bytes free, {full} of them too few, all survived")


def test_a_disk_that_may_not_be_written_is_read_and_writers_are_told(trials, tmp_path):
    """Also where a writer was killed on it, which only who may write can undo."""
    with mounts.small_disk(tmp_path / "disk") as disk:
        path = disk / "c"
        shutil.copytree(trials.unbroken("add")[0], path)
        crashed = shutil.copytree(path, disk / "crashed")
        killing.run(lambda tell: _half_committed(crashed))
        assert (crashed / f"{FILE}-journal").stat().st_size > 0
        mounts.mount("-o", "remount,ro", disk)
        assert searched(path, trials.album) == trials.unbroken("add")[1]
        for name in ("add", "remove", "refit", "facts", "repair"):
            run = killing.run(lambda tell, name=name: told(trials, name, path, tell))
            (line,) = run.told
            assert line.startswith(f"error {path}") and "cannot be written: Read-only file system" in line
        with pytest.raises(CollectionError, match=r"a writer was killed .* once by who may write"):
            Collection.open(crashed)
        mounts.mount("-o", "remount,rw", disk)
        assert searched(crashed, trials.album) == trials.unbroken("add")[1]


def _half_committed(path: Path) -> None:
    """Be killed when a part of a transaction is in the catalogue already."""
    with Store(path, write=True) as store:
        store.catalogue.rows("PRAGMA cache_size = 2")
        with store.catalogue.transaction() as db:
            db.execute("UPDATE images SET digest = digest || 'x'")
            db.executemany(
                "INSERT INTO failures (origin, reason, bytes, modified_ns) VALUES (?, 'r', 0, 0)",
                [(str(i) * 50,) for i in range(3000)],
            )
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def shelf(album, tmp_path) -> Iterator[Path]:
    """The album, at a place that can vanish: the same paths each time it is mounted."""
    place = tmp_path / "shelf"
    place.mkdir()
    source = shutil.copytree(album, tmp_path / "source")
    try:
        mounts.mount("--bind", source, place)
    except Exception as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield place
    mounts.unmount(place)


def vanishing(monkeypatch, place: Path, after: int) -> None:
    """Let the place vanish when so many files have been described."""

    def describe_files(sources, recipe, known, *, workers: int, timeout: float, feedings=(), ahead=0):
        module._recipe, module._feedings, module._known = recipe, feedings, known
        module._local = load_local(recipe.local, recipe.name)
        for number, source in enumerate(sources):
            if number == after:
                mounts.unmount(place)
            yield module._describe(source)

    module = workers
    monkeypatch.setattr(indexing, "describe_files", describe_files)


@pytest.mark.parametrize("after", [5, *(pytest.param(n, marks=pytest.mark.torture) for n in range(16) if n != 5)])
@pytest.mark.parametrize("state", ["new", "touched", "missing"])
def test_photos_that_vanish_under_way_are_named_and_nothing_is_lost(tiny, shelf, tmp_path, monkeypatch, state, after):
    """Of a new collection; of one whose files have another time, so that all are read; of one whose files were gone."""
    path, source = tmp_path / "c", tmp_path / "source"
    with Collection.create(path, tiny) as collection:
        if state != "new":
            collection.add([shelf])
        if state == "touched":
            for photo in source.rglob("*.png"):
                os.utime(photo, (1, 1))
        if state == "missing":
            mounts.unmount(shelf)
            assert collection.add([shelf]).vanished == 16
            mounts.mount("--bind", source, shelf)
        with monkeypatch.context() as patch:
            vanishing(patch, shelf, after)
            report = collection.add([shelf])
        assert report.failed == 16 - after and len(list(collection.failures())) == 16 - after
        assert len(collection) == (after if state == "new" else 16)
        if state != "new":
            assert collection.search(next(source.rglob("coffee-1.png"))).accepted >= 2
        mounts.mount("--bind", source, shelf)
        collection.add([shelf])
        assert len(collection) == 16 and collection.info().missing == 0 and list(collection.failures()) == []
        assert collection.verify() == [] and collection.search(next(source.rglob("coffee-1.png"))).accepted >= 2


@pytest.mark.parametrize(
    ("name", "most"),
    [("add", 2), *(pytest.param(n, 20, marks=pytest.mark.torture) for n in ("add", "refit", "swap"))],
)
def test_a_collection_whose_disk_vanishes_under_way_is_as_after_a_kill(trials, tmp_path, name, most, count):
    work, (_, expected, _) = trials.works[name], trials.unbroken(name)
    needs_mounts(tmp_path)
    calls = trials.calls(name)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for at in (tried := range(2, calls, max(1, calls // most))):
        trials.based(name, (source := tmp_path / str(at)) / "c")
        mounts.mount("--bind", source, shelf)
        path = shelf / "c"
        run = killing.run(
            lambda tell, path=path: told(trials, name, path, tell),
            at_event=at,
            strike=lambda: mounts.unmount(shelf),
        )
        assert not run.killed
        trials.check(name, source / "c", run)
        killing.run(lambda tell, source=source: work.do(source / "c", trials.album, tell))
        assert work.answers(source / "c", trials.album) == expected
    count(f"{name}: its disk vanished before {len(tried)} of its {calls} calls, all survived")


def cut_off(path: Path, file: Path, ask: Callable[[Path], object], tell: Tell) -> None:
    """In a child: open a collection and search it, cut a file to a third, search again."""
    with Collection.open(path) as collection:
        before = collection.search(1)
        os.truncate(file, file.stat().st_size // 3)
        try:
            after = collection.search(1)
            tell(f"answered {(after.ids == before.ids).all() and (after.scores == before.scores).all()}")
        except CollectionError as error:
            tell(f"error {error}")


def test_a_file_that_is_cut_off_beneath_a_reader_is_an_error_with_words(trials, tmp_path, count):
    """Where SIGBUS would end the process without any."""
    base = trials.unbroken("add")[0]
    files = sorted(p.relative_to(base) for p in base.rglob("*") if p.is_file() and p.stat().st_size > 8)
    seen, lines = {}, []
    for number, file in enumerate(files):
        path = shutil.copytree(base, tmp_path / str(number))
        run = killing.run(lambda tell, path=path, file=file: cut_off(path, path / file, searched, tell))
        (line,) = run.told
        seen[file.name] = line
        lines.append(line)
        if line.startswith("error"):
            assert str(path / file) in line and "resight" in line
        else:
            assert line == "answered True"
    cut = [name for name, line in seen.items() if line.startswith("error")]
    assert {"features.log", "words-1.log", "images", "codes", "offsets", "words"} <= set(cut)
    count(f"{len(files)} files cut off, {sum(line.startswith('error') for line in lines)} times an error with words")


def test_a_command_that_a_failing_disk_ends_says_so(python):
    program = "import os, signal; from resight.cli import main as m\n"
    program += "m.app = lambda **_: os.kill(os.getpid(), signal.SIGBUS)\nm.main()"
    process = python(program)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGBUS and "Bus error" in said


def test_vectors_and_an_index_that_are_cut_off_beneath_a_reader(trials, tmp_path):
    base = trials.unbroken("swap")[0]

    def cut(path: Path, name: str, tell: Tell) -> None:
        with Store(path, write=False) as store:
            snapshot, log = store.snapshot(), store.vectors_log()
            log.record(0, 64)
            (file,) = path.rglob(name)
            os.truncate(file, file.stat().st_size // 3)
            with pytest.raises(CollectionError, match=f"{name}: was cut off from .* `resight verify`"):
                log.record(0, 64) if name == "vectors.log" else snapshot.index.candidates(_queries(), 3)

    for name in ("vectors.log", "codes.faiss"):
        path = shutil.copytree(base, tmp_path / name)
        killing.run(lambda tell, path=path, name=name: cut(path, name, tell))
    assert nearest(base, trials.album) == trials.unbroken("swap")[1]


def _queries():
    from made_vectors import crowded

    return crowded(3, 2, 16, crowds=8)
