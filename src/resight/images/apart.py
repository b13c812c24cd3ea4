"""Reading pictures and archives that nobody vouches for in a process of its own, which can be killed.

A decoder is native code that damaged files are made to break. Here a file that crashes it, keeps it busy or floods the
memory ends as an ImageError, and the next one is read as if nothing had been.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool

from resight.errors import ImageError, ResightError
from resight.images.archives import Member, find_member, listing
from resight.images.damage import unforeseen
from resight.images.image import Image
from resight.images.limits import Limits
from resight.images.read import decode, read_image
from resight.processes import MEMORY, GuardlessContext, begin, expect_harm

SECONDS = 60.0
"""That reading one picture may take."""

_LISTED = 5_000_000  # bytes of an archive a second: about what bzip2 is unpacked at on a slow machine
_DEFAULT = Limits()

P = ParamSpec("P")
R = TypeVar("R")


class Apart:
    """Processes that read, started when they are first needed; threads may share them. Close it at the end.

    processes: how many files are read at the same time.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: ProcessPool | None = None
        self._lock = threading.Lock()

    def run(self, seconds: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What a module's function gives. Raises its ResightErrors, and ImageError for any other way it ends.

        A daemonic process may not have others, and can be killed itself: there the function is called at once.
        """
        if multiprocessing.current_process().daemon:
            return _run(_working_folder(), function, args, kwargs)
        future = self._started().schedule(_run, args=[_working_folder(), function, args, kwargs], timeout=seconds)
        try:
            result: R = future.result()
        except FutureTimeout:
            raise ImageError(f"took longer than {seconds:,.0f} s to read") from None
        except ProcessExpired as error:
            raise ImageError(f"killed the process that read it (exit code {error.exitcode})") from None
        except MemoryError:
            raise ImageError(f"needs more than {MEMORY >> 30} GiB of memory to read") from None
        return result

    def start(self) -> None:
        """Start the processes, so that they are there when the first file is to be read; does not wait for them."""
        self._started().schedule(_nothing)

    def _started(self) -> ProcessPool:
        with self._lock:
            if self._pool is None:
                start = (os.getpid(),)
                self._pool = ProcessPool(
                    self._processes, initializer=_start, initargs=start, context=GuardlessContext()
                )
                # Where multiprocessing began this process it leaves atexit out, and at its end waits for all children.
                Finalize(None, self.close, exitpriority=0)
            return self._pool

    def decode(self, data: bytes, origin: str, *, max_side: int | None = None, limits: Limits = _DEFAULT) -> Image:
        """As ``resight.images.decode``; ImageError also where that takes more than SECONDS or MEMORY, or crashes."""
        return self.run(SECONDS, decode, data, origin, max_side=max_side, limits=limits)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            if self._pool is not None:
                self._pool.stop()
                self._pool.join()
                self._pool = None


def own_apart(processes: int | None = None) -> Apart:
    """This program's one ``Apart`` of so many processes, else of as many as ``read_at_once`` said, until it ends."""
    with _lock:
        number = processes or _at_once
        return _own.setdefault(number, Apart(number))


def read_at_once(files: int) -> None:
    """Have ``run_apart`` read so many files at the same time from now on, for a program whose threads ask for them."""
    global _at_once
    _at_once = files


def start_apart() -> None:
    """``Apart.start`` of this program's own."""
    own_apart().start()


def run_apart(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a module's function that reads one picture gives, in a process of this program's own ``Apart``."""
    return own_apart().run(SECONDS, function, *args, **kwargs)


def read_image_apart(
    value: str | Path | PIL.Image.Image | NDArray[np.uint8] | Image,
    *,
    max_side: int | None = None,
    limits: Limits = _DEFAULT,
) -> Image:
    """As ``read_image``; what is at a path is read as ``run_apart`` does."""
    if isinstance(value, str | Path):
        return run_apart(read_image, str(value), max_side=max_side, limits=limits)
    return read_image(value, max_side=max_side, limits=limits)


def decode_apart(data: bytes, origin: str, *, max_side: int | None = None, limits: Limits = _DEFAULT) -> Image:
    """As ``decode``, and as ``run_apart``."""
    return run_apart(decode, data, origin, max_side=max_side, limits=limits)


def listing_apart(path: str) -> tuple[list[Member], str]:
    """As ``listing``; ImageError also where that takes too long for the archive's length, or too much memory."""
    return own_apart().run(_seconds(path), listing, path)


def find_member_apart(path: str, name: str) -> Member:
    """As ``find_member``, and as ``listing_apart``."""
    return own_apart().run(_seconds(path), find_member, path, name)


def _seconds(path: str) -> float:
    try:
        return SECONDS + Path(path).stat().st_size / _LISTED
    except OSError:  # said by what opens it
        return SECONDS


def _nothing() -> None:
    pass


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:  # it has been removed
        return "/"


def _run(folder: str, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    try:
        os.chdir(folder)  # the parent's may have changed since the process began
        return function(*args, **kwargs)
    except (ResightError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(unforeseen(error)) from error


def _start(parent: int) -> None:
    begin(parent)
    expect_harm()


_at_once = 1
_own: dict[int, Apart] = {}
_lock = threading.Lock()


def _forget() -> None:
    """In a forked child: the processes are its parent's, and a thread of that may have held the lock."""
    global _own, _lock
    _own, _lock = {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
