"""The processes that train: this one, or, on several devices, one for each."""

import logging
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessException

from resight.errors import RecipeError, ResightError
from resight.learning.optimisation import Optimisation

T = TypeVar("T")
_PATIENCE = timedelta(days=2)  # of the others, while the first process mines or validates
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
            strategy=DDPStrategy(start_method="spawn", timeout=_PATIENCE) if settings.devices > 1 else "auto",
            precision=settings.precision,
        )
    if settings.devices == 1:
        alone: T = fabric.launch(function, *arguments)
        return alone
    with tempfile.TemporaryDirectory(prefix="resight-train-") as folder, _left_to_children():
        said = Path(folder) / "error"
        try:
            returned: _Returned = fabric.launch(_child, _Call(function, arguments, said))
        except ProcessException as error:
            if said.exists():
                raise RecipeError(said.read_text("utf-8")) from error
            raise
    if returned.interrupted:
        raise KeyboardInterrupt
    value: T = returned.value
    return value


class _Call:
    """What a process is to do, and where it writes its error. No dataclass, nor a tuple that may hold one: Fabric looks
    into those for tensors, and refuses frozen ones.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], said: Path) -> None:
        self.function, self.arguments, self.said = function, arguments, said


class _Returned:
    """What a process gives back; no dataclass either."""

    def __init__(self, value: Any, interrupted: bool = False) -> None:
        self.value, self.interrupted = value, interrupted


def _child(fabric: Fabric, call: _Call) -> _Returned:
    try:
        return _Returned(call.function(fabric, *call.arguments))
    except KeyboardInterrupt:
        return _Returned(None, interrupted=True)
    except ResightError as error:  # PyTorch carries only a traceback to the parent, and ends the other processes
        call.said.write_text(str(error), "utf-8")
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
