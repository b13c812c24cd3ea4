"""Small file systems in memory that fill up, become read-only or vanish. Only root may mount them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PAGE = 4096


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def unmount(path: Path) -> None:
    """At once for whoever asks by name; files that are open stay so, as on a server that does not answer any more."""
    subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)


@contextmanager
def small_disk(path: Path, size: str = "16m") -> Iterator[Path]:
    """A disk of its own at a new folder. Skips the test where it may not be mounted."""
    path.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={size}", "torture", path)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield path
    finally:
        unmount(path)


def leave_free(disk: Path, size: int) -> Path:
    """Fill a disk up to so many bytes, in whole pages; the file that does, to be deleted."""
    state = os.statvfs(disk)
    filler = disk / "filler"
    taken = (state.f_bavail * state.f_bsize - size) // _PAGE * _PAGE
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, taken)
    return filler
