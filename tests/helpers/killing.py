"""Forked children that work on a collection and are killed with SIGKILL in the middle of it.

A fork of this process has everything imported, so that a trial takes a fraction of a second and its moments are all of
the work itself. The child tells what it has finished through a pipe, as a command would by returning.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from forked import without_threads

Tell = Callable[[str], None]
Job = Callable[[Tell], None]

# What Python does to files; SQLite's own calls are met by the random moments.
_EVENTS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree", "sqlite3.connect")


@dataclass(frozen=True)
class Run:
    """told: what the child said before its end. killed: whether it was, or had finished. seconds: of its work."""

    told: tuple[str, ...]
    killed: bool
    seconds: float


class Child:
    """A job in a fork of this process, which waits for ``begin``. at_event, strike: as of ``run``."""

    def __init__(self, job: Job, at_event: int | None = None, strike: Callable[[], None] | None = None) -> None:
        self._reading, writing = os.pipe()
        going, self._go = os.pipe()
        self._began = 0.0
        self.id = os.fork()
        if self.id == 0:
            os.close(self._go)
            os.read(going, 1)
            _work(job, writing, at_event, strike or _kill_self)
        os.close(writing)
        os.close(going)

    def begin(self) -> None:
        self._began = time.monotonic()
        os.write(self._go, b".")  # closing alone would not do: children that were forked later have it open too
        os.close(self._go)

    def ended(self) -> Run:
        """What became of it. AssertionError with its traceback where it failed by itself."""
        with os.fdopen(self._reading, "rb") as pipe:
            lines = pipe.read().decode()
        _, status = os.waitpid(self.id, 0)
        seconds = time.monotonic() - self._began
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or os.waitstatus_to_exitcode(status) == 0, f"status {status}: {lines}"
        # A line that the kill cut off was not told.
        return Run(tuple(lines[: lines.rfind("\n") + 1].splitlines()), killed, seconds)


def run(
    job: Job,
    *,
    after: float | None = None,
    at_event: int | None = None,
    strike: Callable[[], None] | None = None,
) -> Run:
    """A job in a child. after: seconds until it is killed; at_event: before which call to the file system.

    The calls are fsyncs, and what Python's audit hooks tell of files. strike: what happens then in place of a kill.
    """
    child = Child(job, at_event, strike)
    child.begin()
    if after is not None:
        time.sleep(after)
        os.kill(child.id, signal.SIGKILL)
    return child.ended()


def events(job: Job) -> int:
    """How many calls to the file system a job makes that ``at_event`` counts."""
    return int(run(lambda tell: _counting(job, tell)).told[-1])


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _work(job: Job, writing: int, at_event: int | None, strike: Callable[[], None]) -> None:
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        without_threads()
        tell = _teller(writing)
        if at_event is not None:
            _count(at_event, strike)
        job(tell)
    except BaseException:
        os.write(writing, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def _teller(writing: int) -> Tell:
    return lambda line: (os.write(writing, f"{line}\n".encode()), None)[1]


_counted = [0]


def _count(last: int, strike: Callable[[], None]) -> None:
    """Count calls, and let it happen before the last of them."""

    def met() -> None:
        _counted[0] += 1
        if _counted[0] == last:
            strike()

    def sync(handle: int, fsync: Callable[[int], None] = os.fsync) -> None:
        met()
        fsync(handle)

    sys.addaudithook(lambda event, _: met() if event in _EVENTS else None)
    os.fsync = sync


def _counting(job: Job, tell: Tell) -> None:
    _count(-1, _kill_self)
    job(lambda line: None)
    tell(str(_counted[0]))
