"""One collection, served: what all routes share."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio

from resight.cache import cache_folder
from resight.images.apart import Apart, read_at_once
from resight.images.limits import Limits
from resight.server import limits
from resight.server.jobs import Jobs
from resight.server.metrics import Metrics
from resight.server.pictures import DECODERS, Pictures
from resight.server.readers import Readers
from resight.server.room import Room
from resight.server.searches import Searches
from resight.server.settings import Settings
from resight.server.uploads import Uploads

T = TypeVar("T")


class Service:
    """Opened once. Raises CollectionError where there is no collection."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = Path(os.path.abspath(path)), settings  # noqa: PTH100 - links are the user's, and stay
        self.metrics = Metrics()
        self.readers = Readers(self.path)
        self.live = self.readers.live
        state = settings.state or cache_folder() / "serve" / hashlib.sha256(bytes(self.path)).hexdigest()[:32]
        largest = Limits(pixels=settings.upload_pixels, bytes=settings.upload_bytes)
        self._apart = Apart(DECODERS)
        read_at_once(DECODERS)  # photos of the collection too, or one that is slow would hold up all the others
        self.uploads = Uploads(state / "queries", largest, settings.state_bytes, self._apart)
        self.pictures = Pictures(state / "thumbnails", self.live, Limits(), self._apart)
        self.searches = Searches(state / "searches", self.readers, self.uploads, settings, self.metrics)
        self.jobs = Jobs(self.path, self.readers, settings, self.metrics)
        self.receiving = Room(limits.RECEIVED, limits.QUEUE, "uploads")
        """For a form while it is received, which fills the disk."""
        self.reading = Room(DECODERS, settings.timeout, "uploads")
        """For an uploaded picture while it is decoded, which fills memory."""
        self._drawing = anyio.CapacityLimiter(limits.DRAWN)
        self.metrics.watch("resight_images", "Images of the collection", lambda: len(self.live))

    def keep(self, data: bytes) -> tuple[str, tuple[int, int]]:
        """Keep an uploaded picture, while not too many are being decoded; as ``Uploads.keep``."""
        with self.pictures.decoding:
            return self.uploads.keep(data)

    async def drawn(self, make: Callable[[], T]) -> T:
        """What a function that makes pictures gives, in a thread of its own kind: any number may wait for theirs."""
        return await anyio.to_thread.run_sync(make, limiter=self._drawing)

    def close(self) -> None:
        """End what runs and release the folder."""
        self.searches.close()
        self.jobs.close()
        self.readers.close()
        self._apart.close()
