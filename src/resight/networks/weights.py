"""Weights from local files into a network, never by unpickling objects and never partly.

Formats: ``.npz`` and ``.safetensors`` with one array a parameter under the network's own names, and ``.pth``
or ``.pt`` checkpoints that hold tensors only, bare or under ``state_dict`` or ``model``.
"""

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from resight.errors import RecipeError

_SHOWN = 5


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, in hex. Raises RecipeError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error


def load_state(path: str | Path) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU, in the dtypes of the file.

    Raises RecipeError where the file is missing, of another format, damaged, or needs full unpickling, which
    could run any code.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such weights file; check the path given by --weights or in the recipe")
    match path.suffix.lower():
        case ".npz":
            return _load_npz(path)
        case ".safetensors":
            try:
                return load_file(path)
            except (SafetensorError, OSError) as error:
                raise RecipeError(f"{path}: not a readable safetensors file: {error}") from error
        case ".pth" | ".pt":
            return _load_checkpoint(path)
    raise RecipeError(f"{path}: weights are read from .npz, .safetensors, .pth and .pt files only")


def load_into(network: nn.Module, state: Mapping[str, Tensor], origin: str | Path) -> None:
    """Copy ``state`` into ``network``, converting to the network's dtypes; all of it or nothing.

    origin: the file's name, for messages.
    A classifier that the network does not have is left aside, and BatchNorm's ``num_batches_tracked``, which
    inference does not use, may be absent. Raises RecipeError listing the missing, unexpected and misshapen
    names.
    """
    own = network.state_dict()
    heads = {"classifier", "fc", "head"} - {name.partition(".")[0] for name in own}
    given = {_renamed(name): tensor for name, tensor in state.items() if name.partition(".")[0] not in heads}
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in own]
    misshapen = [
        f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    found = [_list(what, names) for what, names in problems.items() if names]
    if found:
        raise RecipeError(f"{origin}: does not fit the network: {'; '.join(found)}")
    network.load_state_dict(given, strict=False)


def read_batchnorm_eps(weights: str | Path) -> float | None:
    """``bn_eps`` of a ``meta.json`` in the weights' folder, or None where there is no such file or entry.

    Networks converted from other frameworks keep that framework's ε: Keras's DenseNets have 1.001e-5.
    """
    path = Path(weights).with_name("meta.json")
    if not path.is_file():
        return None
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read as JSON: {error}") from error
    eps = meta.get("bn_eps") if isinstance(meta, dict) else None
    if eps is not None and not (isinstance(eps, float) and 0 < eps < 1):
        raise RecipeError(f"{path}: bn_eps must be a number between 0 and 1, not {eps!r}")
    return eps


def set_batchnorm_eps(network: nn.Module, eps: float) -> None:
    """Set ε of every batch normalisation in ``network``."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eps = eps


def _load_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    # np.load says ValueError of pickled members; from_numpy says TypeError of strings.
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise RecipeError(f"{path}: not a readable .npz of plain numeric arrays: {error}") from error


def _load_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RecipeError(
            f"{path}: holds more than tensors, and unpickling it could run any code: {reason} "
            "Save its state_dict, best as .safetensors, with the program it comes from."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise RecipeError(f"{path}: not a readable PyTorch checkpoint: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise RecipeError(f"{path}: not a state_dict: a mapping from names to tensors was expected")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def _renamed(name: str) -> str:
    """torchvision's DenseNet files still say ``denselayer1.norm.1`` for ``denselayer1.norm1``."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", name)


def _list(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{more}"
