"""The requests of searches, kept on the disk so that links to them stay good."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from resight.server.schemas import SearchRequest
from resight.server.uploads import replace_file

_ID = re.compile(r"s[A-Za-z0-9_-]+")
_MOST, _BYTES = 100_000, 256 * 1024**2  # that are kept
_SHARE = 0.9  # of them, when there were too many: so few requests have to look for the oldest


class Requests:
    """In a folder, a file each; above their most the oldest go. Not for several threads at once to ``keep`` in."""

    def __init__(self, folder: Path, most: int = _MOST, most_bytes: int = _BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._most, self._most_bytes = folder, most, most_bytes
        self._count = self._bytes = 0
        self._make_room()

    def keep(self, name: str, request: SearchRequest) -> None:
        """Under the search's id. Raises OSError where the disk is full."""
        data = canonical(request).encode()
        replace_file(self._folder / f"{name}.json", data)
        self._count, self._bytes = self._count + 1, self._bytes + len(data)
        if self._count > self._most or self._bytes > self._most_bytes:
            self._make_room()

    def get(self, name: str) -> SearchRequest | None:
        """The request of a search, or None where there is none."""
        if _ID.fullmatch(name) is None:
            return None
        try:
            return SearchRequest.model_validate_json((self._folder / f"{name}.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def _make_room(self) -> None:
        """Look at what there is, which other services may have kept too."""
        kept = sorted((facts.st_mtime_ns, path, facts.st_size) for path, facts in self._files())
        self._count, self._bytes = len(kept), sum(size for _, _, size in kept)
        if self._count <= self._most and self._bytes <= self._most_bytes:
            return
        for _, path, size in kept:
            if self._count <= _SHARE * self._most and self._bytes <= _SHARE * self._most_bytes:
                return
            path.unlink(missing_ok=True)
            self._count, self._bytes = self._count - 1, self._bytes - size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.glob("s*.json"):
            with suppress(FileNotFoundError):  # another service has just made room
                yield path, path.stat()


def canonical(request: SearchRequest) -> str:
    """The same text for equal requests."""
    return json.dumps(request.model_dump(mode="json"), sort_keys=True)
