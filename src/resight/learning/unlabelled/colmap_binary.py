"""COLMAP's models as binary files: little-endian records after their number."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resight.errors import GroundTruthError
from resight.learning.unlabelled.colmap_text import Raw

# How many parameters a camera model has, by its number. The first is a focal length in all.
_PARAMETERS = {0: 3, 1: 4, 2: 4, 3: 5, 4: 8, 5: 8, 6: 12, 7: 5, 8: 4, 9: 5, 10: 12, 11: 16}
_KEYPOINT = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
_TRACKED = 8  # bytes of one photo in a point's track


def cameras(path: Path) -> dict[int, float]:
    """As ``colmap_text.cameras``. Raises GroundTruthError for a model of an unknown number of parameters."""
    file, found = _File(path), {}
    for _ in range(file.count(24)):
        camera, model, _, _ = file.take("<IiQQ")
        if model not in _PARAMETERS:
            raise GroundTruthError(
                f"{path}: camera {camera} is of model {model}, whose length is not known here; export the model as "
                "text (colmap model_converter --output_type TXT)"
            )
        found[camera] = file.take(f"<{_PARAMETERS[model]}d")[0]
    file.end()
    return found


def images(path: Path) -> list[Raw]:
    """As ``colmap_text.images``."""
    file = _File(path)
    found: list[Raw] = []
    for _ in range(file.count(73)):
        _, *pose, camera = file.take("<I7dI")
        name = file.text()
        keypoints = file.array(_KEYPOINT, file.count(_KEYPOINT.itemsize))
        found.append((name, np.array(pose, np.float64), camera, keypoints["point"].astype(np.int64)))
    file.end()
    return found


def points(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """As ``colmap_text.points``."""
    file = _File(path)
    count = file.count(51)
    ids, places = np.empty(count, np.int64), np.empty((count, 3))
    for row in range(count):
        ids[row], *places[row] = file.take("<q3d3Bd")[:4]
        file.skip(_TRACKED * file.count(_TRACKED))
    file.end()
    return ids, places


class _File:
    """A file's bytes and a place in them. What goes beyond their end raises GroundTruthError."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        try:
            self.bytes = path.read_bytes()
        except OSError as error:
            raise GroundTruthError(f"{path}: cannot be read: {error.strerror or error}") from error

    def count(self, least: int) -> int:
        """A number of records, of so many bytes each at least, that the rest of the file has room for."""
        (count,) = self.take("<Q")
        if count * least > len(self.bytes) - self.at:
            raise self._damaged(f"{count} records cannot follow byte {self.at}")
        return int(count)

    def take(self, form: str) -> tuple[Any, ...]:
        start = self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.bytes, start)

    def text(self) -> str:
        """Up to the next zero byte."""
        end = self.bytes.find(b"\0", self.at)
        if end < 0:
            raise self._damaged("a name has no end")
        start, self.at = self.at, end + 1
        try:
            return self.bytes[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged("a name is not UTF-8") from error

    def array(self, dtype: "np.dtype[np.void]", count: int) -> NDArray[np.void]:
        start = self.skip(dtype.itemsize * count)
        return np.frombuffer(self.bytes, dtype, count, start)

    def skip(self, length: int) -> int:
        """Where the place was."""
        start, self.at = self.at, self.at + length
        if self.at > len(self.bytes):
            raise self._damaged("it ends too early")
        return start

    def end(self) -> None:
        if self.at != len(self.bytes):
            raise self._damaged(f"{len(self.bytes) - self.at} bytes are left over")

    def _damaged(self, what: str) -> GroundTruthError:
        return GroundTruthError(f"{self.path}: is damaged: {what}; export the model from COLMAP again")
