"""An append-only file of binary records: what a catalogue row points into.

A record that no committed row points at does not exist: the tail that a crash left is overwritten by the next append.
"""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError
from resight.store.mapped import Mapped


class LogWriter:
    """Appends records to a file after its first `end` bytes, which are what the catalogue has committed."""

    def __init__(self, path: Path, end: int) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size < end:
            raise CollectionError(
                f"{path}: is {size} bytes, but the catalogue has committed {end}; run `resight repair {path.parent}`, "
                "or restore a copy"
            )
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
        self._mapped = Mapped(path) if path.exists() else None
        self._bytes = np.empty(0, np.uint8) if self._mapped is None else self._mapped.bytes

    def record(self, offset: int, length: int) -> NDArray[np.uint8]:
        """`length` bytes at `offset`, without a copy; CollectionError if the file does not have them."""
        if offset < 0 or length < 0 or offset + length > len(self._bytes):
            raise self._cut_off
        self.check()
        return self._bytes[offset : offset + length]

    def check(self) -> None:
        """Before what ``record`` gave is read again: CollectionError if the file has been cut short since."""
        if self._mapped is not None:
            self._mapped.check()

    def copied(self, offset: int, length: int) -> NDArray[np.uint8]:
        """As ``record``, read past the map: for passing over a large file, whose mapped pages would fill the memory.

        Also for what a failing disk may hold: a page of the map that it does not give ends the process.
        """
        if length == 0:
            return np.empty(0, np.uint8)
        try:
            # First, since the memory for a damaged length could not be had.
            if not 0 <= offset <= offset + length <= self._path.stat().st_size:
                raise self._cut_off
            found = np.fromfile(self._path, np.uint8, length, offset=offset)
        except OSError as error:
            raise CollectionError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        if len(found) < length:
            raise self._cut_off
        return found

    def matches(self, offset: int, length: int, crc: int) -> bool:
        """Whether the record is there, can be read, and has this CRC-32."""
        try:
            return zlib.crc32(self.copied(offset, length).tobytes()) == crc
        except CollectionError:
            return False

    @property
    def _cut_off(self) -> CollectionError:
        return CollectionError(f"{self._path}: is cut off; run `resight verify` to see which images it has lost")


def rewrite(path: Path, records: Iterable[tuple[int, bytes]]) -> None:
    """Put records back where they were, durably: (offset, bytes), of the checksums that the catalogue has for them.

    Who reads the file sees either. A file that was cut off is made long enough. OSError where it cannot be written.
    """
    with path.open("r+b" if path.exists() else "w+b") as file:
        for offset, record in records:
            file.seek(offset)
            file.write(record)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names of new files in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
