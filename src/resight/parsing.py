"""JSON, TOML and NumPy's files from anywhere: what is wrong with them is a ValueError, whatever their parsers raise."""

import json
import struct
import tokenize
import tomllib
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

_UNPACKED = 1 << 30  # bytes that arrays may always unpack to; beyond them, so many times the file's

_NUMPY_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    SyntaxError,
    OverflowError,
    RuntimeError,  # an unknown compression of a zip, and nesting too deep
    MemoryError,  # a shape that the file cannot hold
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def parse_json(text: str | bytes, **options: Any) -> Any:
    """``json.loads``; also nesting too deep and numbers too long to read are a ValueError."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """``tomllib.loads``; also nesting too deep and numbers too long to read are a ValueError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def load_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` by name, without pickle. Raises OSError, and ValueError for anything else in it."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as box:
                unpacked = sum(member.file_size for member in box.infolist())
            if unpacked > max(_UNPACKED, 100 * Path(path).stat().st_size):
                raise ValueError(f"it unpacks to {unpacked:,} bytes; save it without compression")
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, NpzFile):
                raise ValueError("it is a single array")
            arrays = {name: file[name] for name in file.files}
    except _NUMPY_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{strange[0]} is no array")
    return arrays


def load_array(path: str | Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """The array of an ``.npy``, without pickle. Raises OSError, and ValueError for anything else in it."""
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except _NUMPY_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if not isinstance(array, np.ndarray):
        raise ValueError("it is no single array")
    return array
