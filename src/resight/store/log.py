"""An append-only file of binary records: what a catalogue row points into.

A record that no committed row points at does not exist: the tail that a crash left is overwritten by the next append.
"""

import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError


class LogWriter:
    """Appends records to a file after its first `end` bytes, which are what the catalogue has committed."""

    def __init__(self, path: Path, end: int) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size < end:
            raise CollectionError(f"{path}: is {size} bytes, but the catalogue has committed {end}; restore a copy")
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(end)
        self._file.seek(end)
        self.end = end

    def append(self, record: bytes) -> tuple[int, int]:
        """Write a record; its offset and CRC-32, for the catalogue. It is durable after ``sync``."""
        offset = self.end
        self._file.write(record)
        self.end += len(record)
        return offset, zlib.crc32(record)

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what was not synced may be lost."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LogReader:
    """Reads records by offset from a memory map of the file as it was when opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        empty = not path.exists() or path.stat().st_size == 0
        # As a plain array: slices of np.memmap itself are slow to make.
        self._bytes: NDArray[np.uint8] = (
            np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, mode="r").view(np.ndarray)
        )

    def record(self, offset: int, length: int) -> NDArray[np.uint8]:
        """`length` bytes at `offset`, without a copy; CollectionError if the file ends before them."""
        if offset + length > len(self._bytes):
            raise CollectionError(f"{self._path}: is cut off; run `resight verify` to see which images it has lost")
        return self._bytes[offset : offset + length]

    def copied(self, offset: int, length: int) -> NDArray[np.uint8]:
        """As ``record``, read past the map: for passing over a large file, whose mapped pages would fill the memory."""
        found = np.fromfile(self._path, np.uint8, length, offset=offset) if length else np.empty(0, np.uint8)
        if len(found) < length:
            raise CollectionError(f"{self._path}: is cut off; run `resight verify` to see which images it has lost")
        return found

    def matches(self, offset: int, length: int, crc: int) -> bool:
        """Whether the record is there and has this CRC-32."""
        if offset + length > len(self._bytes):
            return False
        return zlib.crc32(self._bytes[offset : offset + length].tobytes()) == crc


def sync_folder(folder: Path) -> None:
    """Make the names of new files in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
