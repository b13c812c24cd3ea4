"""A run's state on disk, from which it goes on as if it had never stopped: one safetensors file, replaced whole."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from resight.errors import RecipeError
from resight.learning.task import Batch
from resight.parsing import parse_json
from resight.store.log import sync_folder

_FORMAT = "1"


@dataclass(frozen=True)
class Position:
    """Where a run is.

    epoch: completed ones. place: completed batches of the next. step: completed ones, of all epochs. rows: of the log.
    best: the deciding figure's largest value so far, found after ``best_epoch`` epochs. stale: validations since.
    """

    epoch: int = 0
    place: int = 0
    step: int = 0
    rows: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run goes on from.

    module: state dict. optimiser: state by the parameter's number. scaler: of mixed precision. plan: the batches of the
    epoch that has begun, None between epochs. identity: what decides the run, by key.
    """

    position: Position
    module: Mapping[str, Tensor]
    optimiser: Mapping[int, Mapping[str, Any]]
    plan: tuple[Batch, ...] | None
    identity: Mapping[str, Any]
    scaler: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that ``path`` holds, even after a crash, either what it held or all of the new.

    Raises RecipeError where it cannot be written.
    """
    tensors = {f"module.{name}": tensor for name, tensor in checkpoint.module.items()}
    plain: dict[str, dict[str, Any]] = {}
    for number, state in checkpoint.optimiser.items():
        plain[str(number)] = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        own = {f"optimiser.{number}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
        tensors |= own
    if checkpoint.plan is not None:
        tensors |= _packed(checkpoint.plan)
    facts = {
        "position": asdict(checkpoint.position),
        "identity": dict(checkpoint.identity),
        "scaler": dict(checkpoint.scaler),
        "optimiser": plain,
    }
    save_tensors(path, tensors, {"format": _FORMAT, "resight": json.dumps(facts, sort_keys=True)})


def load_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint; RecipeError where there is none, or it is damaged or of another version."""
    tensors, metadata = _read(path)
    try:
        if metadata["format"] != _FORMAT:
            raise RecipeError(f"{path}: is of another version of resight; train again without --resume")
        facts = parse_json(metadata["resight"])
        optimiser: dict[int, dict[str, Any]] = {int(number): state for number, state in facts["optimiser"].items()}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                number, _, key = rest.partition(".")
                optimiser[int(number)][key] = tensor
        return Checkpoint(
            position=TypeAdapter(Position).validate_python(facts["position"]),
            module=_under("module.", tensors),
            optimiser=optimiser,
            plan=_unpacked(_under("plan.", tensors)),
            identity=facts["identity"],
            scaler=facts["scaler"],
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: is no checkpoint of a training; train again without --resume") from error


def load_module(path: Path) -> dict[str, Tensor]:
    """The module's state of a checkpoint, or of what ``save_tensors`` wrote under ``module.``."""
    return _under("module.", _read(path)[0])


def check_identity(path: Path, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises RecipeError, which names the first key, where a run would go on with other settings or another set."""
    plain = json.loads(json.dumps(now))
    for key in dict.fromkeys([*kept, *plain]):
        if kept.get(key) != plain.get(key):
            raise RecipeError(
                f"{path}: the run was begun with {key} = {_shown(kept.get(key))}, not {_shown(plain.get(key))}: "
                "set it back to go on, or choose another --into"
            )


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file of tensors on any device, whole or not at all. Raises RecipeError if it cannot be."""
    own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file(own, temporary, metadata=dict(metadata))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        if os.name != "nt":
            sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise RecipeError(
            f"{path}: cannot be written: {error}; make room or choose another folder, then go on with --resume"
        ) from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise RecipeError(f"{path}: no checkpoint to go on from; train without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise RecipeError(f"{path}: is damaged: {error}; train again without --resume") from error


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _packed(plan: tuple[Batch, ...]) -> dict[str, Tensor]:
    """The batches one after another, with their lengths; a width of 0 is of a batch without tuples."""
    tuples = [np.empty((0, 0), np.int64) if batch.tuples is None else batch.tuples for batch in plan]
    shapes = [(len(batch.places), *rows.shape) for batch, rows in zip(plan, tuples, strict=True)]
    nothing = np.empty(0, np.int64)
    return {
        "plan.shapes": torch.tensor(shapes, dtype=torch.int64).reshape(-1, 3),
        "plan.places": torch.from_numpy(np.concatenate([nothing, *(batch.places for batch in plan)])),
        "plan.tuples": torch.from_numpy(np.concatenate([nothing, *(rows.ravel() for rows in tuples)])),
    }


def _unpacked(tensors: Mapping[str, Tensor]) -> tuple[Batch, ...] | None:
    if not tensors:
        return None
    places, tuples = tensors["places"].numpy(), tensors["tuples"].numpy()
    plan, at, row = [], 0, 0
    for count, height, width in tensors["shapes"].tolist():
        rows = tuples[row : row + height * width].reshape(height, width) if width else None
        plan.append(Batch(places[at : at + count], rows))
        at, row = at + count, row + height * width
    return tuple(plan)


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
