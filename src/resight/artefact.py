"""Learned things on disk: one safetensors file each, with what it is and what it was fitted on in its header.

The format is plain safetensors; everything of ours is JSON under the metadata key ``resight``. No pickle.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from resight.errors import RecipeError
from resight.files import replacing
from resight.parsing import parse_json

_FORMAT = 1


def artefact_fingerprint(kind: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256, in hex, of the kind and of each tensor's name, dtype, shape and C-ordered bytes, by name."""
    digest = hashlib.sha256(json.dumps(kind).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, tensor.dtype.name, tensor.shape]).encode())
        digest.update(_native(tensor).tobytes())
    return digest.hexdigest()


def save_artefact(path: str | Path, kind: str, tensors: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> str:
    """Write an artefact so that ``path`` holds, even after a crash, either what it held or all of the new.

    kind: what it is, such as ``"pca-whitening"``; ``load_artefact`` refuses any other.
    tensors: arrays of any numeric dtype and order.
    meta: JSON-serialisable facts, such as ``fitted_on``.
    Returns the artefact's fingerprint. Raises RecipeError where the file cannot be written.
    """
    path = Path(path)
    native = {name: _native(tensor) for name, tensor in tensors.items()}
    fingerprint = artefact_fingerprint(kind, native)
    facts = json.loads(json.dumps(dict(meta)))
    header = {"format": _FORMAT, "kind": kind, "fingerprint": fingerprint, "meta": facts, "sum": _sum(facts)}
    data = save(native, metadata={"resight": json.dumps(header, sort_keys=True)})
    try:
        _write_atomically(path, data)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written: {error.strerror or error}") from error
    return fingerprint


def load_artefact(path: str | Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """(tensors, meta) as given to ``save_artefact``.

    Raises RecipeError where the file is missing, is no artefact of ours, is of another kind, or is damaged.
    """
    _, tensors, meta = load_artefact_of(path, (kind,))
    return tensors, meta


def load_artefact_of(path: str | Path, kinds: Collection[str]) -> tuple[str, dict[str, NDArray[Any]], dict[str, Any]]:
    """(kind, tensors, meta) of an artefact of one of several kinds. Raises as ``load_artefact``."""
    wanted = " or ".join(kinds)
    kind, tensors, meta = _read(Path(path), f"{wanted} ")
    if kind not in kinds:
        raise RecipeError(f"{path}: holds a {kind} artefact where a {wanted} is needed")
    return kind, tensors, meta


def _read(path: Path, wanted: str, *, whole: bool = True) -> tuple[str, dict[str, NDArray[Any]], dict[str, Any]]:
    """(kind, tensors, meta) of any artefact; without the tensors unless ``whole``. wanted: its kind, for a message."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; make a {wanted}artefact with `resight fit`")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("resight")
            tensors = {name: file.get_tensor(name) for name in file.keys() if whole}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise RecipeError(f"{path}: not a readable safetensors file: {error}") from error
    if text is None:
        raise RecipeError(f"{path}: not written by resight; make the artefact with `resight fit`")
    try:
        header = parse_json(text)
        found, version, fingerprint, meta = (header[key] for key in ("kind", "format", "fingerprint", "meta"))
        sum_ = header.get("sum")  # files of earlier versions have none
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path}: its header is damaged; make the artefact again") from error
    if version != _FORMAT:
        raise RecipeError(f"{path}: format {version}, but this version of resight reads format {_FORMAT}")
    if not isinstance(found, str) or not isinstance(meta, dict) or (sum_ is not None and sum_ != _sum(meta)):
        raise RecipeError(f"{path}: its facts are not those that were written; make the artefact again")
    if whole and fingerprint != artefact_fingerprint(found, tensors):
        raise RecipeError(f"{path}: its contents do not match its fingerprint; make the artefact again")
    return found, tensors, meta


def read_meta(path: str | Path) -> dict[str, Any]:
    """The facts beside an artefact of any kind, whose tensors are not read. Raises as ``load_artefact``."""
    return _read(Path(path), "", whole=False)[2]


def add_meta(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write an artefact of any kind anew, with further facts beside it. Raises as loading and saving do."""
    kind, tensors, meta = _read(Path(path), "")
    save_artefact(path, kind, tensors, {**meta, **facts})


def _sum(facts: Mapping[str, Any]) -> str:
    """sha256, in hex, of what lies beside the tensors."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _native(tensor: NDArray[Any]) -> NDArray[Any]:
    """C-ordered and of native byte order, since safetensors writes a buffer as it lies."""
    return tensor.astype(tensor.dtype.newbyteorder("="), order="C", copy=False)


def _write_atomically(path: Path, data: bytes) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if os.name != "nt":  # the rename itself is durable only once the folder is; Windows has no call for it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
