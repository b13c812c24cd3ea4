"""Pictures as they leave the service: made from pixels alone, so without EXIF, and small ones made once."""

import threading
from contextlib import suppress
from pathlib import Path

from resight.errors import ImageError
from resight.images.apart import SECONDS, Apart
from resight.images.image import Image
from resight.images.limits import Limits
from resight.images.read import thumbnail_jpeg, thumbnail_of
from resight.search.collection import Collection
from resight.server.problems import Refused
from resight.server.uploads import replace_file

THUMBNAILS = (160, 320, 640)
LARGEST = 2048

DECODERS = 2  # that work at the same time


class Pictures:
    """Of the images of a collection.

    folder: where thumbnails are kept, by the digest of the photo's content. apart: where photos are decoded.
    """

    def __init__(self, folder: Path, live: Collection, limits: Limits, apart: Apart) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._live, self._limits, self._apart = folder, live, limits, apart
        self.decoding = threading.BoundedSemaphore(DECODERS)
        """Held by whoever decodes a picture of any size."""

    def tag(self, image_id: int, side: int) -> str:
        """Of what ``jpeg`` gives, which stays the same while the photo does."""
        return f'"{self._live.digest(image_id)}-{side}"'

    def jpeg(self, image_id: int, side: int) -> bytes:
        """An image, upright, with the longest side at most `side` pixels.

        Raises QueryError for an unknown id and Refused (404) where its file is gone, unreadable or another now.
        """
        content, origin = self._live.digest(image_id), self._live.entry(image_id).origin
        kept = self._folder / content[:2] / f"{content}-{side}.jpg" if side in THUMBNAILS else None
        if kept is not None and kept.is_file():
            return kept.read_bytes()
        with self.decoding:
            try:
                made = self._apart.run(SECONDS, thumbnail_of, origin, content, side, _quality(side), self._limits)
            except ImageError as error:
                raise Refused(404, "picture", f"id:{image_id}: the picture cannot be shown: {error.reason}") from error
        if kept is not None:
            with suppress(OSError):  # on a full disk it is made again for each who asks
                kept.parent.mkdir(exist_ok=True, mode=0o700)
                replace_file(kept, made)
        return made

    @staticmethod
    def made(image: Image, side: int) -> bytes:
        """Any image as JPEG."""
        return thumbnail_jpeg(image, side, _quality(side))


def _quality(side: int) -> int:
    return 85 if side > THUMBNAILS[-1] else 80
