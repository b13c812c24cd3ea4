"""One collection, served: what all routes share."""

import hashlib
import os
from pathlib import Path

from resight.cache import cache_folder
from resight.images.limits import Limits
from resight.server.jobs import Jobs
from resight.server.metrics import Metrics
from resight.server.pictures import Pictures
from resight.server.readers import Readers
from resight.server.searches import Searches
from resight.server.settings import Settings
from resight.server.uploads import Uploads


class Service:
    """Opened once. Raises CollectionError where there is no collection."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = Path(os.path.abspath(path)), settings  # noqa: PTH100 - links are the user's, and stay
        self.metrics = Metrics()
        self.readers = Readers(self.path)
        self.live = self.readers.live
        state = settings.state or cache_folder() / "serve" / hashlib.sha256(bytes(self.path)).hexdigest()[:32]
        limits = Limits(pixels=settings.upload_pixels, bytes=settings.upload_bytes)
        self.uploads = Uploads(state / "queries", limits, settings.state_bytes)
        self.pictures = Pictures(state / "thumbnails", self.live, Limits())
        self.searches = Searches(state / "searches", self.readers, self.uploads, settings, self.metrics)
        self.jobs = Jobs(self.path, self.readers, settings, self.metrics)
        self.metrics.watch("resight_images", "Images of the collection", lambda: len(self.live))

    def keep(self, data: bytes) -> tuple[str, tuple[int, int]]:
        """Keep an uploaded picture, while not too many are being decoded; as ``Uploads.keep``."""
        with self.pictures.decoding:
            return self.uploads.keep(data)

    def close(self) -> None:
        """End what runs and release the folder."""
        self.searches.close()
        self.jobs.close()
        self.readers.close()
