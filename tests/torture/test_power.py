"""The power goes: of what was written, only what was synced is there after it.

A simulation. A child is killed before one of its fsyncs, and then whatever Python wrote to a file since that file's
last fsync is cut off, and files whose folder was not synced since they were made are taken away. SQLite's own files are
left as they are: it syncs through its own calls, which are trusted here. A disk that reorders or lies is not simulated.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import killing
import pytest
from killing import Tell

pytestmark = pytest.mark.usefixtures("here")
NAMES = ("index", "add", "refit", "upgrade", "reword", "restrict", "swap", "grow", "hash", "rehash")


def noting_syncs(folder: Path, job: Callable[[Tell], None], tell: Tell) -> None:
    """A job whose fsyncs are told: of a file its inode and length, of a folder its name and what is in it."""
    counted = os.fsync

    def fsync(handle: int) -> None:
        counted(handle)  # which may be the end
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_relative_to(folder):
            state = path.stat()
            what = "/".join(inner.name for inner in path.iterdir()) if path.is_dir() else str(state.st_size)
            tell(f"synced\t{path.relative_to(folder) if path.is_dir() else state.st_ino}\t{what}")

    os.fsync = fsync
    job(tell)


def lengths_of(folder: Path) -> tuple[dict[str, int], set[str]]:
    """By inode, and all names."""
    there = list(folder.rglob("*")) if folder.exists() else []
    return {str(p.stat().st_ino): p.stat().st_size for p in there}, {str(p.relative_to(folder)) for p in there}


def lose_unsynced(folder: Path, before: tuple[dict[str, int], set[str]], told: tuple[str, ...]) -> int:
    """Take from a folder what the power would; how many files that was. before: what was there first."""
    lengths, entries, lost = *before, 0
    for line in told:
        if line.startswith("synced\t"):
            _, which, what = line.split("\t")
            if which.isdecimal():
                lengths[which] = int(what)
            else:
                entries |= {str(Path(which, entry)) for entry in what.split("/") if entry}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name.startswith("catalogue.sqlite") or path.name == "lock":
            continue
        kept = lengths.get(str(path.stat().st_ino), 0)
        if str(path.relative_to(folder)) not in entries:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            lost += 1
        elif path.is_file() and path.stat().st_size > kept:
            os.truncate(path, kept)
            lost += 1
    return lost


@pytest.mark.parametrize(
    ("name", "most"), [("add", 2), *(pytest.param(n, 40, marks=pytest.mark.torture) for n in NAMES)]
)
def test_what_was_reported_is_there_when_the_power_has_gone(trials, tmp_path, name, most, count):
    lost = 0
    work, (_, expected, _) = trials.works[name], trials.unbroken(name)
    calls = trials.calls(name)
    for at in (tried := range(3, calls + 1, max(1, calls // most))):
        path = tmp_path / f"{at}" / "c"
        path.parent.mkdir()
        trials.based(name, path)
        before = lengths_of(path)
        job = lambda say, path=path: work.do(path, trials.album, say)  # noqa: E731
        run = killing.run(lambda tell, path=path, job=job: noting_syncs(path, job, tell), at_event=at)
        if path.exists():
            lost += lose_unsynced(path, before, run.told)
        trials.check(name, path, run)
        killing.run(lambda tell, job=job: job(tell))
        assert work.answers(path, trials.album) == expected
    count(f"{name}: the power went before {len(tried)} of its {calls} calls, {lost} files lost something, all survived")
