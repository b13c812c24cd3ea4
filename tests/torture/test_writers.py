"""Two writers at once, and readers while one writes: one is told, and no reader sees a half of anything."""

import shutil
from collections.abc import Callable
from pathlib import Path

import killing
import pytest
from broken_works import nearest, searched
from killing import Job, Tell

from resight.errors import CollectionError
from resight.search.collection import Collection

pytestmark = pytest.mark.usefixtures("here")


def together(*jobs: Job) -> list[tuple[str, ...]]:
    """What several jobs tell that begin at the same moment."""
    children = [killing.Child(job) for job in jobs]
    for child in children:
        child.begin()
    return [child.ended().told for child in children]


def test_of_many_writers_one_writes_and_the_others_are_told(trials, tmp_path):
    def write(tell: Tell) -> None:
        try:
            trials.works["index"].do(tmp_path / "c", trials.album, lambda line: None)
            tell("done")
        except CollectionError as error:
            tell(str(error))

    told = [line for lines in together(*[write] * 6) for line in lines]
    assert len(told) == 6 and "done" in told
    for line in told:
        assert line == "done" or "another process is writing to it; wait" in line or "is not an empty folder" in line
    assert searched(tmp_path / "c", trials.album) == trials.unbroken("index")[1]


def reader(path: Path, until: Path, look: Callable[[], str], tell: Tell) -> None:
    """Look again and again until a file appears; what was seen, and how often."""
    seen: dict[str, int] = {}
    while not until.exists():
        if Collection.exists(path):
            what = look()
            seen[what] = seen.get(what, 0) + 1
    for what, times in seen.items():
        tell(f"{times} {what}")


def while_written(path: Path, write: Callable[[], None], look: Callable[[], str]) -> dict[str, int]:
    """What two readers see of a collection, how often, while it is written."""
    until = path.with_name(f"{path.name}-over")

    def writer(tell: Tell) -> None:
        try:
            write()
        finally:
            until.touch()

    reading = [lambda tell: reader(path, until, look, tell)] * 2
    _, *seen = together(writer, *reading)
    counts: dict[str, int] = {}
    for line in (line for lines in seen for line in lines):
        times, _, what = line.partition(" ")
        counts[what] = counts.get(what, 0) + int(times)
    return counts


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.torture)])
def test_readers_see_whole_batches_and_answers_of_before_or_after(trials, tmp_path, times, count):
    """While images are added two by two, their segments compacted, and all encoded anew."""
    path = shutil.copytree(trials.unbroken("index")[0], tmp_path / "c")

    def look() -> str:
        with Collection.open(path) as collection:
            assert collection.info().pending == 0
            ranking = collection.search(1)
            assert ranking.ids[0] == 1 and ranking.accepted >= 3
            return f"{len(ranking.ids)} images"

    def write() -> None:
        for _ in range(times):
            trials.works["add"].do(path, trials.album, lambda line: None)
            trials.works["refit"].do(path, trials.album, lambda line: None)
            with Collection.open(path, write=True) as collection:
                collection.remove([str(trials.album / "more")])

    counts = while_written(path, write, look)
    assert set(counts) <= {"12 images", "14 images", "16 images"}
    with Collection.open(path) as collection:
        assert collection.verify() == [] and len(collection) == 12
    count(f"{sum(counts.values())} searches by two readers beside a writer: {counts}")


@pytest.mark.parametrize("times", [1, pytest.param(30, marks=pytest.mark.torture)])
def test_readers_find_the_same_whichever_index_is_swapped_in(trials, tmp_path, times, count):
    path = shutil.copytree(trials.unbroken("vectors")[0], tmp_path / "c")
    expected = nearest(path, trials.album)

    def look() -> str:
        found = nearest(path, trials.album)
        return "the same" if found == expected else "other"

    def write() -> None:
        for _ in range(times):
            trials.works["swap"].do(path, trials.album, lambda line: None)

    counts = while_written(path, write, look)
    assert set(counts) <= {"the same"}
    count(f"{sum(counts.values())} times five searches by two readers while {4 * times} indexes were swapped in")


def test_a_reader_stays_valid_while_all_that_it_reads_is_replaced(trials, tmp_path):
    path = shutil.copytree(trials.unbroken("index")[0], tmp_path / "c")
    photos = sorted((trials.album / "first").glob("*.png"))
    with Collection.open(path) as reading:
        before = [reading.search(photo) for photo in photos]
        for name in ("add", "refit", "remove", "refit"):
            killing.run(lambda tell, name=name: trials.works[name].do(path, trials.album, tell))
            after = [reading.search(photo) for photo in photos]
            assert [(r.ids.tolist(), r.scores.tolist()) for r in after] == [
                (r.ids.tolist(), r.scores.tolist()) for r in before
            ]
