"""Works that are broken off, and what has to be true of the collection then."""

import shutil
from pathlib import Path

import killing
from broken_works import Work
from killing import Run

from resight.search.collection import Collection
from resight.store.store import Store


class Trials:
    """Works on collections in a folder, and how many trials there were. killed: before their end."""

    def __init__(self, works: dict[str, Work], album: Path, folder: Path) -> None:
        self.works, self.album, self.folder = works, album, folder
        self.tried = self.killed = 0
        self._made: dict[str, tuple[Path, object, float]] = {}

    def unbroken(self, name: str) -> tuple[Path, object, float]:
        """The collection that a work leaves, what it answers, and the seconds it took."""
        if name not in self._made:
            path = self.based(name, self.folder / name)
            run = killing.run(lambda tell: self.works[name].do(path, self.album, tell))
            self._made[name] = path, self.works[name].answers(path, self.album), run.seconds
        return self._made[name]

    def based(self, name: str, path: Path) -> Path:
        """A copy of what the work is done to."""
        if (base := self.works[name].base) is not None:
            shutil.copytree(self.unbroken(base)[0], path)
        return path

    def calls(self, name: str) -> int:
        """How many to the file system the work makes."""
        path = self.based(name, self.folder / f"{name}-counted")
        made = killing.events(lambda tell: self.works[name].do(path, self.album, tell))
        shutil.rmtree(path)
        return made

    def trial(self, name: str, **moment: float | int) -> None:
        """A work broken off at a moment, as ``killing.run`` takes it, and done again."""
        work, (_, expected, _) = self.works[name], self.unbroken(name)
        path = self.based(name, self.folder / f"{name}-{self.tried}")
        run = killing.run(lambda tell: work.do(path, self.album, tell), **moment)
        self.tried, self.killed = self.tried + 1, self.killed + run.killed
        self.check(name, path, run)
        if work.at_once and work.base is not None:
            assert work.answers(path, self.album) in (self.unbroken(work.base)[1], expected)
        again = killing.run(lambda tell: work.do(path, self.album, tell))
        assert not again.killed and work.answers(path, self.album) == expected
        shutil.rmtree(path)

    def check(self, name: str, path: Path, run: Run) -> None:
        """A reader finds all that was told, in a sound collection."""
        if not Collection.exists(path):
            assert all(line.startswith("error ") for line in run.told)
            return
        with Store(path, write=False) as store:
            there = {origin for (origin,) in store.catalogue.rows("SELECT origin FROM images")}
            index = store.catalogue.get("index")
        with Collection.open(path) as collection:
            damaged = collection.verify()
        if self.works[name].base != "damage":
            assert damaged == []
        for line in run.told:
            what, _, value = line.partition(" ")
            match what:
                case "holds":
                    assert value in there
                case "gone":
                    assert value not in there and not any(origin.startswith(f"{value}/") for origin in there)
                case "index":
                    assert index is not None
