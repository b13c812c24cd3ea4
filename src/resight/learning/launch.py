"""The processes that train: this one, or, on several devices, one for each."""

import logging
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessException

from resight.errors import RecipeError, ResightError
from resight.learning.optimisation import Optimisation

T = TypeVar("T")
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # in each process: it tells of what was asked for


def launch(settings: Optimisation, function: Callable[..., T], *arguments: Any) -> T:
    """``function(fabric, *arguments)`` on the devices that the settings ask for; what the first of them returns.

    On several, the function, its arguments and what it returns must be picklable: each process of its own is sent them.
    Raises RecipeError where there are no such devices, and what the function raises of ResightError and
    KeyboardInterrupt.
    """
    check_devices(settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning_fabric")
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy="ddp_spawn" if settings.devices > 1 else "auto",
            precision=settings.precision,
        )
    if settings.devices == 1:
        alone: T = fabric.launch(function, *arguments)
        return alone
    with tempfile.TemporaryDirectory(prefix="resight-train-") as folder, _left_to_children():
        said = Path(folder) / "error"
        try:
            returned: _Returned = fabric.launch(_child, said, function, arguments)
        except ProcessException as error:
            if said.exists():
                raise RecipeError(said.read_text("utf-8")) from error
            raise
    if returned.interrupted:
        raise KeyboardInterrupt
    value: T = returned.value
    return value


class _Returned:
    """What a process gives back. No dataclass: Fabric looks into those for tensors, and refuses frozen ones."""

    def __init__(self, value: Any, interrupted: bool = False) -> None:
        self.value, self.interrupted = value, interrupted


def _child(fabric: Fabric, said: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> _Returned:
    try:
        return _Returned(function(fabric, *arguments))
    except KeyboardInterrupt:
        return _Returned(None, interrupted=True)
    except ResightError as error:  # PyTorch carries only a traceback to the parent, and ends the other processes
        said.write_text(str(error), "utf-8")
        raise


@contextmanager
def _left_to_children() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal: the parent waits until its children have left their checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_devices(settings: Optimisation) -> None:
    """Raises RecipeError where the devices that the settings ask for are not there, or cannot do what they ask."""
    cuda, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    wanted, count = settings.accelerator, settings.devices
    if wanted == "cuda" and not cuda:
        raise RecipeError("accelerator = cuda, but PyTorch sees no GPU: use accelerator = cpu, or its CUDA build")
    if wanted == "mps" and not mps:
        raise RecipeError("accelerator = mps, but PyTorch sees no GPU of Apple's: use accelerator = cpu")
    on = "cuda" if wanted == "auto" and cuda else "mps" if wanted == "auto" and mps else wanted
    have = {"cuda": cuda, "mps": 1}.get(on)
    if have is not None and count > have:
        raise RecipeError(f"devices = {count}, but there are {have}: ask for fewer")
    if settings.precision == "16-mixed" and on not in ("cuda", "mps"):
        raise RecipeError("precision = 16-mixed needs a GPU: on a CPU use bf16-mixed or 32-true")
