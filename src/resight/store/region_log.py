"""Vectors of regions of a collection's images, beside its own: an append-only file of records of one length."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError
from resight.files import replacing
from resight.store.log import LogWriter, sync_folder
from resight.store.mapped import Mapped


def _record(dimension: int) -> np.dtype[np.void]:
    """One region: its image, how many that has, its box in pixels of the upright original, its vector, and a CRC-32."""
    columns = [("id", "<i8"), ("count", "<i4"), ("box", "<f4", 4), ("vector", "<f4", dimension), ("crc", "<u4")]
    return np.dtype(columns)


class RegionLog:
    """The file in a collection's folder. An image's regions lie in a row, and only the last image can be incomplete.

    Ids are never given twice, so that what the file says of an image stays true. levels: of the grid, in the name.
    """

    def __init__(self, folder: Path, levels: int, dimension: int) -> None:
        self.path = folder / f"regions-{levels}.log"
        self._type = _record(dimension)
        self._mapped = Mapped(self.path) if self.path.exists() else None
        self._rows: NDArray[np.void] = np.empty(0, self._type)
        if self._mapped is not None and (whole := len(self._mapped.bytes) // self._type.itemsize):
            self._rows = self._mapped.bytes[: whole * self._type.itemsize].view(self._type)
            ids, count = self._rows["id"], int(self._rows["count"][-1])
            if count < 1 or (ids[-min(count, whole) :] == ids[-1]).sum() < count:  # a crash left part of an image
                self._rows = self._rows[: int(np.argmax(ids == ids[-1]))]

    def ids(self) -> NDArray[np.int64]:
        """The images that have regions, ascending; (N,)."""
        return np.unique(self._rows["id"]).astype(np.int64)

    def rows(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Of these images: image, (R,) int64, box, R×4, and vector, R×D float32, of each region.

        Raises CollectionError where one of them has none, or the file has been cut short since it was opened.
        """
        if self._mapped is not None:
            self._mapped.check()
        kept = np.flatnonzero(np.isin(self._rows["id"], ids))
        # Those that were described again lie behind the others.
        found = self._rows[kept[np.argsort(self._rows["id"][kept], kind="stable")]]
        lacking = len(np.setdiff1d(ids, found["id"]))
        if lacking:
            raise CollectionError(
                f"{self.path}: {lacking:,} of {len(ids):,} images have no regions yet; run `resight index` with their "
                "photos and the same --into again"
            )
        return found["id"].astype(np.int64), found["box"].copy(), found["vector"].copy()

    def damaged(self) -> NDArray[np.int64]:
        """The images of which a region is not what was written, ascending."""
        wrong = [row["id"] for row in self._rows if zlib.crc32(row.tobytes()[:-4]) != row["crc"]]
        return np.unique(np.array(wrong, np.int64))

    def drop(self, ids: NDArray[np.int64]) -> None:
        """Forget images, durably; open the log anew to describe them again. Who reads it goes on with what was there.

        Raises OSError where it cannot be written.
        """
        with replacing(self.path) as temporary, LogWriter(temporary, 0) as log:
            log.append(self._rows[~np.isin(self._rows["id"], ids)].tobytes())
            log.sync()
        sync_folder(self.path.parent)

    def writer(self) -> "RegionWriter":
        """Appends images; use as a context manager, and open the log anew to read them."""
        return RegionWriter(self.path, len(self._rows) * self._type.itemsize, self._type)


class RegionWriter:
    """Appends all regions of one image after another."""

    def __init__(self, path: Path, end: int, record: np.dtype[np.void]) -> None:
        self._log, self._type = LogWriter(path, end), record
        self._folder = path.parent

    def add(self, image: int, boxes: Sequence[Sequence[float]], vectors: NDArray[np.float32]) -> None:
        """R boxes and R×D vectors of an image; durable after the context ends."""
        rows = np.empty(len(boxes), self._type)
        rows["id"], rows["count"], rows["box"], rows["vector"] = image, len(boxes), boxes, vectors
        rows["crc"] = [zlib.crc32(row.tobytes()[:-4]) for row in rows]
        self._log.append(rows.tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._log.sync()
            sync_folder(self._folder)
        finally:
            self._log.close()
