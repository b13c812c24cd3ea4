"""A function run in a fresh process: its memory, with that of its children, and what else ran beside it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import psutil

_EVERY = 0.05  # seconds between two looks


@dataclass(frozen=True)
class Run:
    """value: what the function returned. peak: bytes, the largest sum of resident set sizes of the process and all
    its children that was seen; pages they share are counted in each. private: the same without pages of files and
    of shared memory, which the system takes back when it needs them; equal to peak where it does not tell.
    others: share of the machine's time that other processes computed meanwhile.
    """

    value: Any
    peak: int
    private: int
    others: float


def watched(function: Callable[..., Any], *arguments: Any) -> Run:
    """Run ``function(*arguments)``, which must be importable, in a spawned process. Raises RuntimeError if it fails."""
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, function, arguments))
    before = _computed()
    process.start()
    send.close()
    ended = threading.Event()
    peak = [0, 0]
    watcher = threading.Thread(target=_watch, args=(process.pid, ended, peak))
    watcher.start()
    try:
        value, own = receive.recv()
    except EOFError as error:
        raise RuntimeError(f"{function.__name__} failed in its process; its error is above") from error
    finally:
        process.join()
        ended.set()
        watcher.join()
    busy, passed = (after - earlier for after, earlier in zip(_computed(), before, strict=True))
    return Run(value, *peak, others=max(0.0, busy - own) / passed)


def _child(send: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    value = function(*arguments)
    times = psutil.Process().cpu_times()
    send.send((value, times.user + times.system + times.children_user + times.children_system))


def _computed() -> tuple[float, float]:
    """Seconds that all cores together have computed, and that have passed, since the machine started."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # On Linux time of guests is in `user` too.
    passed = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return passed - idle, passed


def _watch(pid: int, ended: threading.Event, peak: list[int]) -> None:
    while not ended.is_set():
        try:
            root = psutil.Process(pid)
            now = map(_resident, [root, *root.children(recursive=True)])
            peak[:] = map(max, peak, map(sum, zip(*now, strict=True)))
        except psutil.NoSuchProcess:
            return
        time.sleep(_EVERY)


def _resident(process: psutil.Process) -> tuple[int, int]:
    """Bytes of resident memory, and those of them that are private."""
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0, 0
    return memory.rss, memory.rss - getattr(memory, "shared", 0)  # only Linux tells what is shared
