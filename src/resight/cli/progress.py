"""Progress on standard error: a bar with rate and time left on a terminal, a line now and then in a log."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from resight.search.collection import Progress

LOG_EVERY = 30.0  # seconds


class Reporter:
    """A context manager to give as `progress=` to the library's long-running functions.

    Each phase gets its own bar. `quiet` reports nothing. Where standard error is not a terminal, there is a
    line at most every `LOG_EVERY` seconds, so that a log shows a job to be alive and does not fill.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars: RichProgress | None = None
        self._phase: str | None = None
        self._task: TaskID | None = None
        self._began = self._logged = time.monotonic()
        self._first = 0  # done already when the phase began

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, progress: "Progress") -> None:
        self.report(progress.phase, progress.done, progress.total)

    def report(self, phase: str, done: int, total: int | None) -> None:
        """`done` of `total` (None: not known yet) of `phase`."""
        if self._quiet:
            return
        if self._bars is None:
            self._log(phase, done, total)
            return
        if phase != self._phase or self._task is None:
            self._phase, self._task = phase, self._bars.add_task(phase, total=total)
        self._bars.update(self._task, completed=done, total=total)

    def _log(self, phase: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began, self._first = phase, now, done
        if now - self._logged < LOG_EVERY or now - self._began < 1 or done in (self._first, total):
            return
        self._logged = now
        rate = (done - self._first) / (now - self._began)
        text = f"{phase}: {done:,}" + (f" of {total:,}" if total is not None else "") + f", {rate:.1f}/s"
        if total is not None:
            text += f", about {clock((total - done) / rate)} left"
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """A duration as ``h:mm:ss``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _bars() -> "RichProgress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f}/s")

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
