"""Local features as one binary record: little-endian columns, descriptors last, nothing that needs unpickling."""

import numpy as np
from numpy.typing import NDArray

from resight.local.features import LocalFeatures

_COLUMNS = (("xy", "<f4", 2), ("size", "<f4", 1), ("angle", "<f2", 1), ("score", "<f2", 1))
_STORED = (np.dtype(np.uint8), np.dtype(np.int8), np.dtype("<f4"))
_HEAD = sum(np.dtype(kind).itemsize * width for _, kind, width in _COLUMNS)


def pack_features(features: LocalFeatures) -> bytes:
    """xy and size as float32, angle and score as float16 (3 significant digits), descriptors as they are, in bytes."""
    if features.descriptors.dtype not in _STORED:
        raise ValueError(f"descriptors must be uint8, int8 or float32 to be stored, not {features.descriptors.dtype}")
    head = [np.asarray(getattr(features, name), kind).tobytes() for name, kind, _ in _COLUMNS]
    return b"".join([*head, features.descriptors.tobytes()])


def record_length(count: int, dimension: int, stored: np.dtype[np.uint8 | np.int8 | np.float32]) -> int:
    """Bytes of a record of `count` features with descriptors of `dimension` and type `stored`."""
    return count * (_HEAD + dimension * stored.itemsize)


def unpack_features(
    record: NDArray[np.uint8], count: int, dimension: int, stored: np.dtype[np.uint8 | np.int8 | np.float32]
) -> LocalFeatures:
    """The features of a record; descriptors, of type `stored`, are a view into it."""
    columns, start = {}, 0
    for name, kind, width in _COLUMNS:
        stop = start + count * width * np.dtype(kind).itemsize
        column = record[start:stop].view(kind).astype(np.float32)
        columns[name] = column.reshape(count, 2) if width == 2 else column
        start = stop
    return LocalFeatures(**columns, descriptors=record[start:].view(stored).reshape(count, dimension))
