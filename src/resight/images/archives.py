"""Pictures inside zip and tar archives, read in place: nothing is ever extracted to disk."""

import bz2
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from resight.errors import ImageError, UnreadError
from resight.images.limits import Limits

_SUFFIX = r"\.(?:zip|tar|tgz|tbz2|txz|tar\.(?:gz|bz2|xz))"
_ARCHIVE = re.compile(rf".*{_SUFFIX}", re.IGNORECASE | re.DOTALL)
_MEMBER = re.compile(rf"(.*?{_SUFFIX})!/(.+)", re.IGNORECASE | re.DOTALL)

_HEADER_BYTES = 1 << 18
"""Of a member's headers in a tar: they hold its name and attributes, and a bomb of many gigabytes if it is one."""

ARCHIVE_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,  # zip: a password is needed; NotImplementedError: an unknown compression
    struct.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
)
"""What zipfile, tarfile and the decompressors raise on damaged input."""


def is_archive(path: str) -> bool:
    """Whether the name says it is a zip or tar archive."""
    return _ARCHIVE.fullmatch(path) is not None


def split_member(origin: str) -> tuple[str, str] | None:
    """``/a/box.zip!/b.jpg`` → (``/a/box.zip``, ``b.jpg``); None where the origin is no archive member."""
    match = _MEMBER.fullmatch(origin)
    return (match[1], match[2]) if match else None


@dataclass(frozen=True)
class Member:
    """A regular file in an archive.

    name: as stored. bytes: its unpacked length. problem: why it cannot be read; empty where it can.
    """

    name: str
    bytes: int
    problem: str = ""


def members(path: str) -> Iterator[Member]:
    """Every regular file in an archive, in archive order.

    Raises: ImageError, after the members that could be listed, where the archive is damaged.
    """
    entries, damage = listing(path)
    yield from entries
    if damage:
        raise ImageError(damage)


def listing(path: str) -> tuple[list[Member], str]:
    """Every regular file in an archive, in its order, and what is damaged about the rest (empty: nothing).

    Raises: ImageError where not even a part can be listed.
    """
    with _archives.lock:
        return _archives.open(path).entries()


def find_member(path: str, name: str) -> Member:
    """One member by its name as stored.

    Raises: ImageError where the archive is damaged or has no such member.
    """
    with _archives.lock:
        return _archives.open(path).find(name)


def read_member(path: str, name: str, limits: Limits) -> bytes:
    """The bytes of one member. Compressed tars are read forward: members asked for in order cost one pass.

    Raises: ImageError where the archive is damaged, or the member missing, encrypted, empty or too long; its
    UnreadError where the disk does not give the archive.
    """
    try:
        with _archives.lock:
            archive = _archives.open(path)
            member = archive.find(name)
            if member.problem:
                raise ImageError(member.problem)
            # No more than this is unpacked, whatever the compressed data holds.
            limits.check_bytes(member.bytes)
            return archive.read(name)
    except ARCHIVE_ERRORS as error:
        raise _problem("the archive cannot be read", error) from error


class _Archive(Protocol):
    def entries(self) -> tuple[list[Member], str]:
        """Every regular file, and what is damaged about the rest of the archive (empty: nothing)."""

    def find(self, name: str) -> Member: ...

    def read(self, name: str) -> bytes: ...

    def close(self) -> None: ...


class _Zip:
    def __init__(self, path: str) -> None:
        self._zip = zipfile.ZipFile(path)

    def entries(self) -> tuple[list[Member], str]:
        names = dict.fromkeys(filter(None, self._zip.namelist()))  # of members with one name zipfile finds the last
        infos = (self._zip.getinfo(name) for name in names)
        links = stat.S_ISLNK
        return [self._member(i) for i in infos if not i.is_dir() and not links(i.external_attr >> 16)], ""

    def find(self, name: str) -> Member:
        try:
            return self._member(self._zip.getinfo(name))
        except KeyError:
            raise ImageError("the archive has no such member") from None

    def _member(self, info: zipfile.ZipInfo) -> Member:
        encrypted = "the member is encrypted; unpack the archive with its password" if info.flag_bits & 1 else ""
        return Member(info.filename, info.file_size, encrypted or _impossible(info.file_size))

    def read(self, name: str) -> bytes:
        return self._zip.read(name)

    def close(self) -> None:
        self._zip.close()


class _Tar:
    """A tar archive as offsets into its decompressed stream.

    A plain tar is indexed at once. A compressed one is indexed as far as it has been read, so that a reader
    who goes forward decompresses it once. Of members with one name the last one indexed counts, as when tar
    extracts.
    """

    def __init__(self, path: str) -> None:
        self._file = _decompressed(path)
        self._index: dict[str, tuple[int, int]] = {}  # name → offset and length in the decompressed stream
        self._damage = ""
        self._ended = False
        try:
            self._headers = _Headers(self._file)
            self._tar = tarfile.open(fileobj=cast(IO[bytes], self._headers), mode="r:")  # noqa: SIM115
        except BaseException:
            self._file.close()
            raise
        if path.lower().endswith(".tar"):
            self._index_until(None)

    def _index_until(self, name: str | None) -> None:
        while not self._ended and (name is None or name not in self._index):
            try:
                self._headers.left, before = _HEADER_BYTES, self._tar.offset
                info = self._tar.next()
                if self._tar.offset < before:  # it would come round to the same member again and again
                    raise tarfile.ReadError("a member of negative length")
                if info is None:
                    self._ended = True
                    self._damage = self._trailing_damage()
                elif info.isreg() and not info.issparse():
                    self._index[info.name] = info.offset_data, info.size
            except ARCHIVE_ERRORS as error:
                self._ended = True
                self._damage = f"the archive is damaged or truncated: {_text(error)}"
            self._tar.members.clear()  # type: ignore[attr-defined] # 1 kB for every member it has passed

    def _trailing_damage(self) -> str:
        """tarfile takes a damaged header for the end; a true end is a block of zeros, or nothing."""
        self._file.seek(self._tar.offset)
        block = self._file.read(tarfile.BLOCKSIZE)
        return "the archive is damaged: the header of a member is unreadable" if block.strip(b"\0") else ""

    def entries(self) -> tuple[list[Member], str]:
        self._index_until(None)
        return [Member(name, size, _impossible(size)) for name, (_, size) in self._index.items()], self._damage

    def find(self, name: str) -> Member:
        self._index_until(name)
        if name not in self._index:
            raise ImageError(self._damage or "the archive has no such member")
        size = self._index[name][1]
        return Member(name, size, _impossible(size))

    def read(self, name: str) -> bytes:
        offset, size = self._index[name]
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) < size:
            raise ImageError("the archive is truncated")
        return data

    def close(self) -> None:
        self._tar.close()
        self._file.close()


class _Headers:
    """A tar's stream as tarfile reads it: headers alone, which it takes to be as long as they say."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = _HEADER_BYTES

    def read(self, size: int) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise tarfile.ReadError(f"the headers of a member are of more than {_HEADER_BYTES:,} bytes")
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


def _impossible(size: int) -> str:
    return "" if 0 <= size < 2**63 else f"the archive gives it a length of {size} bytes, which cannot be"


def _decompressed(path: str) -> IO[bytes]:
    match Path(path).suffix.lower():
        case ".gz" | ".tgz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        case ".bz2" | ".tbz2":
            return bz2.open(path, "rb")
        case ".xz" | ".txz":
            return lzma.open(path, "rb")
        case _:
            return Path(path).open("rb")


class _OpenArchives:
    """The archives this process has open, least recently used first; use and eviction are under one lock."""

    def __init__(self, capacity: int = 8) -> None:
        self.lock = threading.Lock()
        self._capacity = capacity
        self._open: OrderedDict[str, tuple[tuple[int, int], _Archive]] = OrderedDict()

    def open(self, path: str) -> _Archive:
        """The archive, reopened where it has changed on disk; call with the lock held."""
        try:
            status = Path(path).stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                raise ImageError("it is not a regular file")
            version = (status.st_mtime_ns, status.st_size)
            known = self._open.pop(path, None)
            if known and known[0] != version:
                known[1].close()
                known = None
            archive = known[1] if known else _Zip(path) if path.lower().endswith(".zip") else _Tar(path)
        except ARCHIVE_ERRORS as error:
            raise _problem("the archive cannot be opened", error) from error
        self._open[path] = version, archive
        if len(self._open) > self._capacity:
            self._open.popitem(last=False)[1][1].close()
        return archive


def _problem(what: str, error: Exception) -> ImageError:
    """Of the disk, which has a number, or of what the archive holds."""
    kind = UnreadError if isinstance(error, OSError) and error.errno is not None else ImageError
    return kind(f"{what}: {_text(error)}")


def _text(error: Exception) -> str:
    """What is wrong, without the file name that str() of an OSError ends in."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


_archives = _OpenArchives()


def _forget_archives() -> None:
    """In a forked child: its copies of the open files share their position with the parent's."""
    global _archives
    _archives = _OpenArchives()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_archives)
