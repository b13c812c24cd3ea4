"""Files mapped into memory, and noticing that one was cut short beneath its reader.

Reading a mapped page that its file no longer has ends the process with SIGBUS, which no Python code can catch. Nothing
of ours cuts off what is committed; a copying program, another user or a file server may. So who is about to read asks
``check`` first, which costs a system call, and gets an error with words. Between the two a moment is left.
"""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError


class Mapped:
    """A file as it was when opened: (L,) uint8, read-only. OSError where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        self.bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        with path.open("rb") as file:
            if file.seek(0, 2):
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self.bytes = np.frombuffer(self._map, np.uint8)

    def check(self) -> None:
        """Raises CollectionError where the file has become shorter, or its disk has gone."""
        if self._map is None:
            return
        try:
            there = self._map.size()  # of the file, not of the map
        except OSError as error:
            raise CollectionError(f"{self.path}: cannot be read any more: {error.strerror or error}") from error
        if there < len(self.bytes):
            raise CollectionError(
                f"{self.path}: was cut off from {len(self.bytes):,} to {there:,} bytes while it was being read; "
                "`resight verify` names what is lost, `resight repair` describes it again from the photos"
            )
