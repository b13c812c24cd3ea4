"""Published ground-truth files as plain lists: `.pkl` without full unpickling, `.mat`, `.json` (revisitop, INSTRE)."""

import hashlib
import io
import json
import math
import pickle
import pickletools
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resight.errors import GroundTruthError
from resight.evaluation.labelled import Box
from resight.matfile import load_mat

_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
)
_DTYPE = re.compile(r"[biu][1248]|f[248]|U\d{1,4}")


@dataclass(frozen=True)
class Gnd:
    """What a file of `imlist`, `qimlist` and `gnd` says.

    images, queries: names as the file has them. answers: for each query, key (``ok``, ``easy``, ``junk`` …) → 0-based
    places in images. boxes: for each query, the four numbers as the file has them. revision: sha256 of the file.
    """

    file: Path
    revision: str
    images: tuple[str, ...]
    queries: tuple[str, ...]
    answers: tuple[Mapping[str, tuple[int, ...]], ...]
    boxes: tuple[Box, ...]

    def named(self, query: int, keys: Iterable[str]) -> frozenset[str]:
        """The images that any of the keys lists for a query."""
        return frozenset(self.images[place] for key in keys for place in self.answers[query][key])


def read_gnd(file: Path, keys: Iterable[str]) -> Gnd:
    """A published ground-truth file. Places are 1-based in `.mat`, 0-based elsewhere.

    keys: which lists of places each query must have. Where `qimlist` is absent, `qidx` gives the queries' places.
    Raises GroundTruthError where the file cannot be read, holds anything but plain values, or contradicts itself.
    """
    data = _bytes(file)
    first = 1 if file.suffix == ".mat" else 0
    try:
        raw = _READERS[file.suffix](data)
        images = tuple(_text(name) for name in _list(raw["imlist"]))
        queries = (
            tuple(_text(name) for name in _list(raw["qimlist"]))
            if "qimlist" in raw
            else tuple(images[_place(place, first, len(images))] for place in _list(raw["qidx"]))
        )
        entries = _list(raw["gnd"])
        if len(entries) != len(queries):
            raise ValueError(f"{len(queries)} queries but {len(entries)} answers")
        answers = tuple(
            {key: tuple(_place(place, first, len(images)) for place in _list(entry[key])) for key in keys}
            for entry in entries
        )
        boxes = tuple(_box(entry["bbx"]) for entry in entries)
    except GroundTruthError as error:
        raise GroundTruthError(f"{file}: {error}") from error
    except KeyError as error:
        raise GroundTruthError(f"{file}: has no {error}: it is not the published file of this set") from error
    except _DAMAGE as error:
        raise GroundTruthError(f"{file}: is not a ground-truth file that can be read: {error}; get it again") from error
    return Gnd(file, hashlib.sha256(data).hexdigest(), images, queries, answers, boxes)


def load_plain_pickle(data: bytes) -> Any:
    """What a pickle of dicts, lists, texts, numbers and numeric NumPy arrays holds; arrays as lists. Runs none of it.

    Raises GroundTruthError where it names anything else, and as ``pickle`` does where it is damaged.
    """
    for opcode, argument, _ in pickletools.genops(data):
        # A list of so many places is made for it.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= (argument or 0) <= len(data):
            raise ValueError(f"it keeps something in place {argument} of a file of {len(data)} bytes")
    return _plain(_PlainUnpickler(io.BytesIO(data), encoding="latin1").load(), {})


class _PlainUnpickler(pickle.Unpickler):
    """Knows no code but the constructors below, which stand in for NumPy's."""

    def find_class(self, module: str, name: str) -> Any:
        known = _STAND_INS.get((module, name))
        if known is None:
            raise GroundTruthError(
                f"refused: it asks for {module}.{name}, and a ground truth is plain lists, texts, numbers and arrays; "
                "do not open this file with pickle"
            )
        return known

    def persistent_load(self, pid: Any) -> Any:
        raise GroundTruthError("refused: it refers to objects outside the file")


class _Dtype:
    """``numpy.dtype`` of numbers and texts."""

    def __init__(self, text: str, align: object = False, copy: object = False) -> None:
        if not _DTYPE.fullmatch(text):
            raise GroundTruthError(f"refused: an array of dtype {text!r}; a ground truth has numbers and texts")
        self.text, self.order = text, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise ValueError(f"byte order {state[1]!r}")
        self.order = state[1]

    def of(self, raw: bytes) -> np.ndarray[Any, Any]:
        dtype = np.dtype(self.order + self.text)
        return np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)


class _Array:
    """``numpy.ndarray``, kept as nested lists."""

    def __init__(self, kind: object = None, shape: object = (), code: object = b"") -> None:
        self.values: Any = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        # One without numbers may claim to have any number of rows.
        self.values = dtype.of(raw).reshape(shape, order="F" if fortran else "C").tolist() if raw else []


def _scalar(dtype: _Dtype, raw: bytes | str) -> Any:
    return dtype.of(raw.encode("latin1") if isinstance(raw, str) else raw).item()


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise GroundTruthError(f"refused: text encoded as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """``bytes()``, as old protocols write an empty array's data."""
    return b""


_STAND_INS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    ("_codecs", "encode"): _latin1,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
}


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """The value as plain lists. known: what became of lists and dicts by identity, since one may be in many places."""
    if id(value) in known:
        return known[id(value)]
    match value:
        case _Array():
            return value.values
        case dict():
            known[id(value)] = plain = {key: _plain(item, known) for key, item in value.items()}
            return plain
        case list() | tuple():
            known[id(value)] = items = [_plain(item, known) for item in value]
            return items
        case str() | bytes() | bool() | int() | float() | None:
            return value
    raise GroundTruthError(f"refused: it holds a {type(value).__name__}")


_READERS: Mapping[str, Callable[[bytes], Any]] = {".pkl": load_plain_pickle, ".json": json.loads, ".mat": load_mat}


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise GroundTruthError(f"{file}: cannot be read: {error.strerror}") from error


def _list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"{values!r:.40} is no list")
    return values


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"an image is called {value!r}")
    return sys.intern(str(value))


def _place(value: Any, first: int, images: int) -> int:
    place = int(value) - first
    if place != value - first or not 0 <= place < images:
        raise ValueError(f"place {value} is not one of {images} images, counted from {first}")
    return place


def _box(values: Any) -> Box:
    numbers = [float(value) for value in _list(values)]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"box {numbers} is not four numbers")
    return numbers[0], numbers[1], numbers[2], numbers[3]
