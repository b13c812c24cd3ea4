"""The collection as all requests share it: one loaded recipe, and the newest committed state that can be searched."""

import threading
import time
from pathlib import Path

from resight.errors import CollectionError
from resight.search.collection import Collection

_SHARE = 9.0  # times what taking up a new state took, for which the next one waits: a tenth of the time at most


class Readers:
    """Takes up what a writer, of this process or another, has committed; searches that run keep their own state."""

    def __init__(self, path: Path) -> None:
        self.live = Collection.open(path)
        """Its catalogue always says what is committed now. Not for searching."""
        self.why: str | None = None
        """Why the newest state cannot be searched, or None."""
        self._seen: int | None = None
        self._searchable: Collection | None = None
        self._not_before = 0.0
        self._lock = threading.Lock()

    def searchable(self, *, now: bool = False) -> tuple[Collection, int]:
        """A collection to search and its version. now: the newest, whatever it costs.

        Its searches may run in several threads, but only one at a time describes. Raises CollectionError where none
        can be searched yet.
        """
        version = self.live.version
        if version != self._seen and self._lock.acquire(blocking=now or self._searchable is None):
            try:
                if version != self._seen and (now or time.monotonic() >= self._not_before):
                    self._take_up(version)
            finally:
                self._lock.release()
        found, seen = self._searchable, self._seen
        if found is None or seen is None:
            raise CollectionError(self.why or "the collection cannot be searched yet")
        return found, seen

    def _take_up(self, version: int) -> None:
        began = time.monotonic()
        try:
            if self.live.follow():
                version = self.live.version
            self._searchable = (self._searchable or self.live).reopened()
            self.why = None
        except CollectionError as error:
            self.why = str(error)
        else:
            self._seen = version
        ended = time.monotonic()
        self._not_before = ended + _SHARE * (ended - began)

    def close(self) -> None:
        """Release the folder."""
        self.live.close()
        if self._searchable is not None:
            self._searchable.close()
