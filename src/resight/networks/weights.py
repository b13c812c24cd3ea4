"""Weights from local files into a network, never by unpickling objects and never partly.

Formats: ``.npz`` and ``.safetensors`` with one array a parameter, and PyTorch checkpoints (``.pth``, ``.pt``,
``.pyth``, ``.pth.tar``) whose tensors are bare or under ``state_dict``, ``model`` or ``model_state``, beside plain
values and NumPy arrays.
"""

import hashlib
import pickle
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.parsing import load_arrays, parse_json

_SHOWN = 5
_WRAPPERS = ("state_dict", "model", "model_state")
_TORCH_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)
"""What torch.load raises for damaged files, beside pickle's own."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a weights file holds.

    state: parameters and buffers by name, on the CPU, in the dtypes of the file.
    facts: what lies beside them: a PyTorch checkpoint's other entries, a ``.safetensors`` file's metadata.
    """

    path: Path
    state: dict[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, in hex. Raises RecipeError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_sha256(found: str, wanted: str, origin: str) -> None:
    """Raises RecipeError unless weights are those that a recipe was made with, where it says which ("" does not)."""
    if wanted and found != wanted:
        raise RecipeError(
            f"{origin}: sha256 is {found}, but the recipe was made with {wanted}: "
            "restore that file, or fit the recipe again with `resight fit`"
        )


def load_state(path: str | Path) -> dict[str, Tensor]:
    """``read_checkpoint``'s parameters and buffers by name; raises as it does."""
    return read_checkpoint(path).state


def read_checkpoint(path: str | Path) -> Checkpoint:
    """A weights file, read without running any code that it may hold.

    Raises RecipeError where the file is missing, of another format, damaged, or needs full unpickling.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path}: no such weights file; check the path")
    match path.suffix.lower():
        case ".npz":
            return Checkpoint(path, _load_npz(path))
        case ".safetensors":
            return _load_safetensors(path)
        case ".pth" | ".pt" | ".pyth" | ".tar":
            return _load_pytorch(path)
    raise RecipeError(f"{path}: weights are read from .npz, .safetensors, .pth, .pt, .pyth and .pth.tar files only")


def load_into(
    network: nn.Module, state: Mapping[str, Tensor], origin: str | Path, *, without: Collection[str] = ("pre_logits",)
) -> None:
    """Copy ``state`` into ``network``, converting to the network's dtypes; all of it or nothing.

    origin: the file's name, for messages.
    without: children of ``network`` that a file of features may leave out altogether, by default the hidden
        layers of VGG's classifier. Those left out become ``nn.Identity``, so that nothing stays at random.
    A classifier that the network does not have is left aside, and BatchNorm's ``num_batches_tracked``, which
    inference does not use, may be absent. Raises RecipeError listing the missing, unexpected and misshapen
    names.
    """
    given_children = {name.partition(".")[0] for name in state}
    cut = [name for name, _ in network.named_children() if name in without and name not in given_children]
    own = {name: tensor for name, tensor in network.state_dict().items() if name.partition(".")[0] not in cut}
    heads = {"classifier", "fc", "head"} - {name.partition(".")[0] for name in own}
    given = {timm_name(name): tensor for name, tensor in state.items() if name.partition(".")[0] not in heads}
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
    for name in cut:
        setattr(network, name, nn.Identity())
    network.load_state_dict(given, strict=False)


def timm_name(name: str) -> str:
    """timm's name of a parameter of torchvision's, whose DenseNet files still say ``norm.1`` for ``norm1``."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", name)


def read_batchnorm_eps(weights: str | Path) -> float | None:
    """``bn_eps`` of a ``meta.json`` in the weights' folder, or None where there is no such file or entry.

    Networks converted from other frameworks keep that framework's ε: Keras's DenseNets have 1.001e-5.
    """
    path = Path(weights).with_name("meta.json")
    if not path.is_file():
        return None
    try:
        meta = parse_json(path.read_text(encoding="utf-8"))
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
        return {name: torch.from_numpy(array) for name, array in load_arrays(path).items()}
    except (OSError, ValueError, TypeError) as error:  # TypeError: of strings
        raise RecipeError(f"{path}: not a readable .npz of plain numeric arrays: {error}") from error


def _load_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return Checkpoint(path, state, file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise RecipeError(f"{path}: not a readable safetensors file: {error}") from error


def unpickled(path: Path) -> Any:
    """What a PyTorch checkpoint of tensors, plain values and NumPy arrays holds; raises as ``read_checkpoint``."""
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RecipeError(f"{path}: {_refusal(str(error))}") from error
    except _TORCH_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise RecipeError(f"{path}: not a readable PyTorch checkpoint: {reason}") from error


def _load_pytorch(path: Path) -> Checkpoint:
    loaded = unpickled(path)
    facts: dict[str, Any] = {}
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            facts |= {str(name): value for name, value in loaded.items() if name != key}
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise RecipeError(f"{path}: not a state_dict: a mapping from names to tensors was expected")
    state = {str(name).removeprefix("module."): tensor.detach() for name, tensor in loaded.items()}
    return Checkpoint(path, state, facts)


def _numpy_globals() -> list[Any]:
    """What rebuilds plain NumPy arrays and scalars, under the names of NumPy 1 and 2; never arrays of objects."""
    codes = "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
    rebuilders = [(np.zeros(1).__reduce__()[0], "_reconstruct"), (np.float64(0).__reduce__()[0], "scalar")]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    named = [(function, f"{module}.{name}") for function, name in rebuilders for module in modules]
    return [*named, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in codes}]


def _refusal(reason: str) -> str:
    """Why an unpickling was refused, and how to go on."""
    classes = sorted(set(re.findall(r"(?:GLOBAL |<class ')([\w.]+)", reason)))
    if not classes:
        said = reason.partition("WeightsUnpickler error:")[2].strip().splitlines() or [reason.strip()]
        return f"not a readable PyTorch checkpoint ({said[0]}): get it again, or save it anew with torch.save"
    what = f" ({', '.join(classes)})"
    whitening = (
        " A scikit-learn whitening is not carried over: learn one with `resight fit`." if "sklearn" in what else ""
    )
    return (
        f"holds more than tensors, numbers, text and plain arrays{what}, and unpickling it could run any code. Where "
        "you trust it, save it anew with the program it comes from, without those entries: "
        f"c = torch.load(FILE, weights_only=False); del c[ENTRY]; torch.save(c, NEW).{whitening}"
    )


def _list(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{more}"
