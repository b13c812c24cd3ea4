"""Processes beside this one, which may crash, hang or want too much memory without harm to it."""

import os
import resource
import signal
import sys
import threading
import time
import warnings
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.popen_spawn_posix import Popen
from pathlib import Path
from types import ModuleType

MEMORY = 4 * 1024**3
"""Bytes that reading and describing one file may take: a picture of ``Limits.pixels`` takes about three of them."""


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: SpawnProcess) -> Popen:  # type: ignore[override]
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return Popen(process_obj)
        finally:
            sys.modules["__main__"] = script


class GuardlessContext(SpawnContext):
    """Of spawned processes that do not run the user's script again, so that scripts need no `__main__` guard."""

    Process = _Process


def begin(parent: int) -> None:
    """First in a process beside: Ctrl-C, which goes to the whole group, is left to its parent, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)


def expect_harm() -> None:
    """Before a process decodes what nobody vouches for, and after it has loaded what it needs: quiet, within MEMORY."""
    warnings.filterwarnings("ignore", module="PIL")
    quiet_decoders()
    bound_memory(MEMORY)


def die_with(parent: int) -> None:
    """End this process soon after its parent is gone, also when that was killed outright."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def bound_memory(more: int) -> None:
    """Let this process take at most so many bytes more than it has: beyond them an allocation fails.

    Files that are mapped do not count. On Linux alone; elsewhere there is no such limit on what is allocated.
    """
    if sys.platform != "linux":
        return
    has = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = has + more if most == resource.RLIM_INFINITY else min(has + more, most)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


def quiet_decoders() -> None:
    """Drop what libraries write to standard error past Python, which may quote a damaged file; Python's own stays."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
