"""What a weights file holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resight.networks.layouts import LAYOUTS
from resight.networks.weights import read_checkpoint


def contents(file: Path) -> dict[str, Any]:
    """What a weights file holds, as JSON: ``layout`` (or None), ``facts``, and ``tensors`` with dtype and shape.

    Raises RecipeError as ``read_checkpoint``.
    """
    read = read_checkpoint(file)
    found = next((layout for layout in LAYOUTS if layout.recognises(read)), None)
    return {
        "file": str(file),
        "layout": found and f"{found.name} ({found.source})",
        "facts": {name: _summary(value) for name, value in read.facts.items()},
        "tensors": {
            name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
            for name, tensor in read.state.items()
        },
    }


def _summary(value: Any) -> Any:
    """JSON of a checkpoint's fact: arrays by dtype and shape, long lists and mappings by their length."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and value.shape != ():
        return f"{str(value.dtype).removeprefix('torch.')} {'×'.join(map(str, value.shape))}"
    if isinstance(value, Mapping):
        return {str(k): _summary(v) for k, v in value.items()} if len(value) <= 16 else f"mapping of {len(value)}"
    if isinstance(value, list | tuple):
        return [_summary(v) for v in value] if len(value) <= 8 else f"list of {len(value)}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
