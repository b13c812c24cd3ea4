"""Local features as one binary record: little-endian columns, descriptors last, nothing that needs unpickling."""

import numpy as np
from numpy.typing import NDArray

from resight.local.features import Colours, LocalFeatures

_COLUMNS = (("xy", "<f4", 2), ("size", "<f4", 1), ("angle", "<f2", 1), ("score", "<f2", 1))
_STORED = (np.dtype(np.uint8), np.dtype(np.int8), np.dtype("<f4"))
_HEAD = sum(np.dtype(kind).itemsize * width for _, kind, width in _COLUMNS)
_FRAME = np.dtype("<f4")


def pack_features(features: LocalFeatures) -> bytes:
    """xy and size as float32, angle and score as float16 (3 significant digits), descriptors as they are, in bytes.

    Colours, where there are any, come after them: the frame as float32 and the pixels.
    """
    if features.descriptors.dtype not in _STORED:
        raise ValueError(f"descriptors must be uint8, int8 or float32 to be stored, not {features.descriptors.dtype}")
    head = [np.asarray(getattr(features, name), kind).tobytes() for name, kind, _ in _COLUMNS]
    colours = features.colours
    tail = () if colours is None else (np.asarray(colours.frame, _FRAME).tobytes(), colours.pixels.tobytes())
    return b"".join([*head, features.descriptors.tobytes(), *tail])


def record_length(
    count: int, dimension: int, stored: np.dtype[np.uint8 | np.int8 | np.float32], colours: int = 0
) -> int:
    """Bytes of a record of `count` features with descriptors of `dimension` and type `stored`.

    colours: side in pixels of the small picture; 0 where there is none.
    """
    return count * (_HEAD + dimension * stored.itemsize) + (4 * _FRAME.itemsize + 3 * colours**2 if colours else 0)


def unpack_features(
    record: NDArray[np.uint8],
    count: int,
    dimension: int,
    stored: np.dtype[np.uint8 | np.int8 | np.float32],
    colours: int = 0,
) -> LocalFeatures:
    """The features of a record, as ``record_length`` takes; descriptors, of type `stored`, are a view into it."""
    columns, start = {}, 0
    for name, kind, width in _COLUMNS:
        stop = start + count * width * np.dtype(kind).itemsize
        column = record[start:stop].view(kind).astype(np.float32)
        columns[name] = column.reshape(count, 2) if width == 2 else column
        start = stop
    stop = start + count * dimension * stored.itemsize
    picture = None
    if colours:
        x1, y1, x2, y2 = record[stop : stop + 4 * _FRAME.itemsize].view(_FRAME).tolist()
        picture = Colours(record[stop + 4 * _FRAME.itemsize :].reshape(colours, colours, 3), (x1, y1, x2, y2))
    descriptors = record[start:stop].view(stored).reshape(count, dimension)
    return LocalFeatures(**columns, descriptors=descriptors, colours=picture)
