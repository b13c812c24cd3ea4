"""Pictures that users bring: decoded within limits, kept as pixels alone, found again by an opaque id."""

import base64
import hashlib
import json
import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from resight.files import replacing
from resight.images.apart import Apart
from resight.images.damage import DECODER_ERRORS
from resight.images.image import Image
from resight.images.limits import Limits
from resight.server.problems import Refused

SIDE = 4096  # pixels of the longest side that are kept
_ID = re.compile(r"q[A-Za-z0-9_-]{22}")
_IN_MEMORY = 8
_LEAST = 8192  # bytes that the smallest picture takes on the disk, with its facts
_SHARE = 0.9  # of the most that is kept when there was too much: so few uploads have to look for the oldest


def is_upload(text: str) -> bool:
    """Whether a text has the form of an id."""
    return _ID.fullmatch(text) is not None


class Uploads:
    """In a folder, as PNG without metadata and a small file of facts each.

    most: bytes in all; above them those go that were used the longest ago and are not in use. apart: where uploads are
    decoded.
    """

    def __init__(self, folder: Path, limits: Limits, most: int, apart: Apart) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._limits, self._most, self._apart = folder, limits, most, apart
        self._key = secret(folder / "key")
        self._recent: OrderedDict[str, Image] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = sum(size for _, _, size in self._kept())
        self.in_use: Callable[[], set[str]] = set

    def keep(self, data: bytes) -> tuple[str, tuple[int, int]]:
        """Decode and keep a picture: its id, and its upright (width, height). The same pixels have the same id.

        Raises ImageError for what is no picture, exceeds the limits or harms its decoder, and Refused where the disk is
        full.
        """
        image = self._apart.decode(data, "the uploaded picture", max_side=SIDE, limits=self._limits)
        mark = hashlib.blake2b(image.pixels.tobytes(), key=self._key, digest_size=16)
        mark.update(repr((image.pixels.shape, image.size)).encode())
        name = f"q{opaque(mark.digest())}"
        if self._read(name) is None:
            known = self._size(self._facts(name))
            try:
                self._write(name, image)
            except OSError as error:
                raise Refused(507, "full", f"the query cannot be kept: {error.strerror or error}") from error
            self._make_room(name, known)
        self._remember(name, image)
        return name, image.size

    def image(self, name: str) -> Image:
        """The picture; Refused (404) where there is none, or none any more."""
        with self._lock:
            known = self._recent.get(name)
        if known is not None:
            self._remember(name, known)
            return known
        image = self._read(name) if is_upload(name) else None
        if image is None:
            raise _unknown()
        self._remember(name, image)
        return image

    def size(self, name: str) -> tuple[int, int]:
        """The upright (width, height) of a picture, which is not read but counts as used now; raises as ``image``."""
        size = self._size_of(name) if is_upload(name) else None
        if size is None:
            raise _unknown()
        self._touch(name)
        return size

    def _read(self, name: str) -> Image | None:
        """None where it is not there, or not whole."""
        size = self._size_of(name)
        if size is None:
            return None
        try:
            with PIL.Image.open(self._folder / f"{name}.png", formats=["PNG"]) as png:
                return Image(np.array(png.convert("RGB")), size, "the uploaded picture")
        except DECODER_ERRORS:
            return None

    def _size_of(self, name: str) -> tuple[int, int] | None:
        try:
            width, height = json.loads(self._facts(name).read_text())["size"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return width, height

    def _facts(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _write(self, name: str, image: Image) -> None:
        encoded = cv2.imencode(".png", cv2.cvtColor(image.pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])[
            1
        ].tobytes()
        replace_file(self._folder / f"{name}.png", encoded)
        facts = {"size": image.size, "bytes": len(encoded)}
        replace_file(self._facts(name), json.dumps(facts).encode())  # last: what has none does not exist

    def _remember(self, name: str, image: Image) -> None:
        """Note that it was used now."""
        self._touch(name)
        with self._lock:
            self._recent[name] = image
            self._recent.move_to_end(name)
            while len(self._recent) > _IN_MEMORY:
                self._recent.popitem(last=False)

    def _touch(self, name: str) -> None:
        with suppress(OSError):  # it has just made room for another, or nothing can be written
            os.utime(self._facts(name))

    def _make_room(self, newest: str, before: int) -> None:
        """before: bytes that a damaged file in the newest one's place counted for."""
        with self._lock:
            self._bytes += self._size(self._facts(newest)) - before
            if self._bytes <= self._most:
                return
            kept = self._kept()  # also what other services have kept there, or removed
            self._bytes, pinned = sum(size for _, _, size in kept), self.in_use() | {newest}
            for _, path, size in kept:
                if self._bytes <= _SHARE * self._most:
                    return
                if path.stem not in pinned:
                    path.unlink(missing_ok=True)
                    path.with_suffix(".png").unlink(missing_ok=True)
                    self._recent.pop(path.stem, None)
                    self._bytes -= size

    def _kept(self) -> list[tuple[int, Path, int]]:
        """When each was last used, its file of facts, and its size; the longest ago first."""
        found = []
        for path in self._folder.glob("q*.json"):
            with suppress(FileNotFoundError):  # another service has just made room
                found.append((path.stat().st_mtime_ns, path, self._size(path)))
        return sorted(found)

    @staticmethod
    def _size(facts: Path) -> int:
        with suppress(FileNotFoundError):
            return max(facts.with_suffix(".png").stat().st_size, _LEAST)
        return 0


def _unknown() -> Refused:
    return Refused(404, "unknown", "there is no such query, or it is no longer kept; give its picture again")


def secret(path: Path) -> bytes:
    """32 random bytes that a file keeps, made at its first use and readable by its owner alone."""
    if not path.exists():
        replace_file(path, secrets.token_bytes(32))
    return path.read_bytes()


def opaque(digest: bytes) -> str:
    """16 bytes as 22 characters that need no escape in a URL."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def replace_file(path: Path, data: bytes) -> None:
    """The file has all of the data, readable by its owner alone, or what it had before."""
    with replacing(path) as temporary:
        temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_bytes(data)
