"""MATLAB 5 files (`.mat`, up to version 7) as plain lists: SciPy's reader crashes the process on damaged ones.

MathWorks, "MAT-File Format", level 5: cells, structures, characters, and real numbers, which are all that ground truth
and networks use.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_COMPLEX = 0x0800
_DEEPEST = 8
_LARGEST = 1 << 28  # bytes that all variables together may be decompressed to


def load_mat(data: bytes, *, others: bool = False) -> dict[str, Any]:
    """Variables by name: cells as a list, structures as a list of dicts, text as a str, numbers as a list; by columns.

    others: whether arrays of other kinds, such as functions, are None rather than refused.
    Raises ValueError for anything damaged, for version 7.3, and for kinds of arrays that it does not read.
    """
    if data[:10] == b"MATLAB 7.3":
        raise ValueError("it is of MATLAB 7.3: save it again as version 7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("it is no MATLAB 5 file")
    reader = _Reader(order, others)
    variables, left = {}, _LARGEST
    try:
        for kind, body in reader.elements(data[128:]):
            if kind == _COMPRESSED:
                unpacked = _inflated(body, left)
                left -= len(unpacked)
            for inner, matrix in [(kind, body)] if kind != _COMPRESSED else reader.elements(unpacked):
                if inner == _MATRIX:
                    name, value = reader.matrix(matrix, 0)
                    variables[name] = value
    except StopIteration:
        raise ValueError("an array lacks parts") from None
    return variables


def _inflated(body: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(body, max(1, most))
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from error
    if not stream.eof:
        raise ValueError("it is cut short, or holds variables beyond reason")
    return data


@dataclass(frozen=True)
class _Reader:
    """order: ``<`` or ``>``. others: as ``load_mat`` has it."""

    order: str
    others: bool

    def elements(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Type and data of each element."""
        at = 0
        while at < len(data):
            if len(data) - at < 8:
                raise ValueError("it is cut short")
            first, length = (int(word) for word in np.frombuffer(data, f"{self.order}u4", 2, at))
            if first >> 16:  # a small element has its data in its tag
                kind, length, start, step = first & 0xFFFF, first >> 16, at + 4, 8
                if length > 4:
                    raise ValueError("a small element is too long")
            else:
                kind, start = first, at + 8
                step = 8 + length + (0 if kind == _COMPRESSED else -length % 8)
            if start + length > len(data):
                raise ValueError("it is cut short")
            yield kind, data[start : start + length]
            at += step

    def matrix(self, data: bytes, depth: int) -> tuple[str, Any]:
        """Name and value of a matrix."""
        if not data:
            return "", []
        if depth > _DEEPEST:
            raise ValueError("arrays are nested too deeply")
        parts = self.elements(data)
        flags, *_ = self._numbers(next(parts))
        kind, size = flags & 0xFF, 1
        if self.others and (flags & _COMPLEX or kind not in (_CELL, _STRUCT, _CHAR, *_NUMERIC)):
            return "", None
        shape, name = self._numbers(next(parts)), self._text(next(parts))
        for length in shape:
            size *= length
        if flags & _COMPLEX or not 0 <= size <= len(data):
            raise ValueError("an array is complex, or of a size that the file cannot hold")
        if kind == _CELL:
            return name, [self._inner(part, depth) for part in self._just(parts, size)]
        if kind == _STRUCT:
            return name, self._struct(parts, size, depth)
        if kind == _CHAR:
            text = "".join(self._text(part) for part in self._just(parts, 1)) if size else ""
            return name, text
        if kind in _NUMERIC:
            numbers = self._numbers(next(parts)) if size else []
            if len(numbers) != size:
                raise ValueError(f"an array of {size} numbers has {len(numbers)}")
            return name, numbers
        raise ValueError(f"an array of class {kind} is none of cells, structures, text and numbers")

    def _struct(self, parts: Iterator[tuple[int, bytes]], size: int, depth: int) -> list[dict[str, Any]]:
        (width,) = self._numbers(next(parts))
        names = self._text(next(parts))
        if width < 1 or len(names) % width:
            raise ValueError("a structure's names are damaged")
        fields = [names[at : at + width].partition("\0")[0] for at in range(0, len(names), width)]
        values = [self._inner(part, depth) for part in self._just(parts, size * len(fields))]
        return [dict(zip(fields, values[at * len(fields) :], strict=False)) for at in range(size)]

    @staticmethod
    def _just(parts: Iterator[tuple[int, bytes]], count: int) -> list[tuple[int, bytes]]:
        found = list(parts)
        if len(found) != count:
            raise ValueError(f"an array of {count} elements has {len(found)}")
        return found

    def _inner(self, part: tuple[int, bytes], depth: int) -> Any:
        if part[0] != _MATRIX:
            raise ValueError("an element is no array")
        return self.matrix(part[1], depth + 1)[1]

    def _numbers(self, part: tuple[int, bytes]) -> list[Any]:
        if part[0] not in _NUMBERS:
            raise ValueError(f"numbers of type {part[0]}")
        dtype = np.dtype(self.order + _NUMBERS[part[0]])
        return [] if not part[1] else np.frombuffer(part[1], dtype).tolist()

    def _text(self, part: tuple[int, bytes]) -> str:
        if part[0] not in _TEXTS:
            raise ValueError(f"text of type {part[0]}")
        encoding = _TEXTS[part[0]]
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if self.order == "<" else "-be"
        return part[1].decode(encoding)
