"""The files of a collection in shards, wherever fsspec reaches: a folder that all nodes see, or an object store.

A file is written under another name and moved to its own when it is whole, so that a name is either absent or final.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resight.cache import cache_folder
from resight.errors import CollectionError
from resight.store.log import sync_folder

_PART = ".part-"


def whole_url(place: str | Path) -> str:
    """A URL as it is; anything else as an absolute path, so that every node takes it for the same."""
    text = os.fspath(place)
    return text if "://" in text else os.path.abspath(text)  # noqa: PTH100 - tidies `..` without following links


class Files:
    """Named files under a folder or URL; names may have folders, with ``/``."""

    def __init__(self, place: str | Path) -> None:
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise CollectionError(
                f"a collection in shards needs {error.name}: pip install 'resight[cluster]', on every node"
            ) from error
        self.url = whole_url(place)
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise CollectionError(f"{self.url}: {error}") from error

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        with self._explained(name):
            return bool(self._system.isfile(self._path(name)))

    def read(self, name: str) -> bytes:
        """A file's bytes; CollectionError where there is none."""
        with self._explained(name):
            return bytes(self._system.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Make or replace a file; durable, on a disk of this machine, when it returns."""
        with self._written(name) as path, self._system.open(path, "wb") as file:
            file.write(data)

    def put(self, local: Path, name: str) -> None:
        """Copy a local file to a name, as ``write`` does."""
        with self._written(name) as path, local.open("rb") as source, self._system.open(path, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def get(self, name: str, local: Path) -> None:
        """Copy a file to a local one that appears whole."""
        local.parent.mkdir(parents=True, exist_ok=True)
        part = local.with_name(f"{local.name}{_PART}{uuid.uuid4().hex}")
        try:
            with self._explained(name), self._system.open(self._path(name), "rb") as source, part.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            part.replace(local)
        finally:
            part.unlink(missing_ok=True)

    def size(self, name: str) -> int:
        """Bytes of a file, 0 where there is none."""
        with self._explained(name):
            path = self._path(name)
            return int(self._system.size(path)) if self._system.isfile(path) else 0

    def names(self, folder: str) -> list[str]:
        """The files in a folder, by name; none where there is no such folder."""
        with self._explained(folder):
            if not self._system.isdir(self._path(folder)):
                return []
            self._system.invalidate_cache()
            found = self._system.ls(self._path(folder), detail=False)
        return sorted(f"{folder}/{str(path).rstrip('/').rsplit('/', 1)[-1]}" for path in found)

    def remove(self, name: str) -> None:
        """Delete a file; nothing where there is none."""
        with self._explained(name):
            if self._system.isfile(self._path(name)):
                self._system.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _written(self, name: str) -> Iterator[str]:
        path, local = self._path(name), "file" in _protocols(self._system)
        part = f"{path}{_PART}{uuid.uuid4().hex}"
        with self._explained(name):
            self._system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            try:
                yield part
                if local:
                    with open(part, "rb") as file:  # noqa: PTH123
                        os.fsync(file.fileno())
                    os.replace(part, path)  # noqa: PTH105 - also where the name is taken already
                    sync_folder(Path(path).parent)
                else:
                    self._system.mv(part, path)
            finally:
                if self._system.exists(part):
                    self._system.rm_file(part)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise CollectionError(f"{self.url}/{name}: is not there; index the photos again") from error
        except OSError as error:
            raise CollectionError(f"{self.url}/{name}: {error.strerror or error}") from error


def local_copies(url: str) -> Path:
    """Where this machine keeps copies of a collection's files: in ``RESIGHT_CACHE``, or in the user's cache folder."""
    return cache_folder() / "shards" / hashlib.sha256(url.encode()).hexdigest()[:16]


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)
