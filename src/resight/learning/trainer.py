"""The loop: batches into gradients into steps, with checkpoints, a log, validation and early stopping."""

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from resight.errors import RecipeError
from resight.learning.checkpoint import (
    Checkpoint,
    Position,
    check_identity,
    load_checkpoint,
    load_module,
    save_checkpoint,
    save_tensors,
)
from resight.learning.log import Log
from resight.learning.optimisation import Optimisation, make_optimiser, rate_at, set_rate
from resight.learning.ranks import any_of, average_gradients, barrier, ranks, same_everywhere
from resight.learning.task import Batch, Task

LAST, BEST = "last.safetensors", "best.safetensors"
Progress = Callable[[str, int, int | None], None]  # phase, done, total


@dataclass(frozen=True)
class Outcome:
    """A run that has ended; its module holds the weights of the best validation, or, without any, the last.

    epochs, steps: taken. best, best_epoch: the deciding figure's largest value and when, None without validation.
    stopped: whether patience ended it early.
    """

    epochs: int
    steps: int
    best: float | None
    best_epoch: int
    stopped: bool


def run(
    task: Task,
    settings: Optimisation,
    folder: Path,
    fabric: Fabric,
    *,
    identity: Mapping[str, Any],
    resume: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> Outcome:
    """Train a task in a folder, which gets ``log.csv``, TensorBoard's ``events``, and the checkpoints LAST and BEST.

    fabric: launched. identity: JSON facts by key that decide the run; one that is resumed must have the same.
    resume: go on from the folder's checkpoint, on the CPU to the same weights, bit for bit, as without a break; where
        there is none yet, begin.
    An interrupt (Ctrl-C, SIGTERM) leaves a checkpoint of the step it came in and then raises KeyboardInterrupt.
    Raises RecipeError where the loss or a gradient is no longer a finite number, and keeps the checkpoint before; where
    the folder cannot be written to; and where the run cannot go on from its checkpoint.
    """
    return _Run(task, settings, folder, fabric, identity, progress).run(resume)


class _Run:
    """A run's moving parts. All processes take the same way through it; the first writes."""

    def __init__(
        self,
        task: Task,
        settings: Optimisation,
        folder: Path,
        fabric: Fabric,
        identity: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        self.task, self.settings, self.folder, self.fabric = task, settings, folder, fabric
        self.identity, self.progress = identity, progress
        task.module.to(fabric.device)
        same_everywhere(task.module)
        self.plain: Optimizer = make_optimiser(settings, task.groups())
        self.optimiser: Any = fabric.setup_optimizers(self.plain)
        self.position = Position()
        self.plan: tuple[Batch, ...] | None = None
        self.log: Log | None = None

    def run(self, resume: bool) -> Outcome:
        first = ranks()[0] == 0
        if resume and (self.folder / LAST).is_file():
            self._restore()
        if first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RecipeError(f"{self.folder}: cannot be made: {error.strerror}; choose another --into") from error
            self.log = Log(self.folder, self.position.rows, self.position.step)
        try:
            with interrupts() as interrupted:
                stopped = self._epochs(interrupted)
        finally:
            if self.log is not None:
                self.log.close()
        position = self.position
        if position.best is not None:
            barrier()
            self.task.module.load_state_dict(load_module(self.folder / BEST))
        return Outcome(position.epoch, position.step, position.best, position.best_epoch, stopped)

    def _epochs(self, interrupted: Callable[[], bool]) -> bool:
        """Train to the end; whether patience ended it before."""
        settings = self.settings
        if self.position == Position():
            self._validate(0)
            self._save()
        while self.position.epoch < settings.epochs and not self._patience_ended:
            epoch = self.position.epoch
            if self.plan is None:
                self.plan = self._planned(epoch)
            for batch in self.plan[self.position.place :]:
                self._step(batch, len(self.plan))
                stop = any_of(interrupted(), self.fabric.device)
                every = settings.checkpoint_every
                ends = self.position.place == len(self.plan)
                if stop or ends or (every and self.position.step % every == 0):
                    self._save()
                if stop:
                    raise KeyboardInterrupt
            self.position = replace(self.position, epoch=epoch + 1, place=0)
            self.plan = None
            if (epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs:
                self._validate(epoch + 1)
            self._save()
            if any_of(interrupted(), self.fabric.device):
                raise KeyboardInterrupt
        return self.position.epoch < settings.epochs

    @property
    def _patience_ended(self) -> bool:
        return bool(self.settings.patience) and self.position.stale >= self.settings.patience

    def _planned(self, epoch: int) -> tuple[Batch, ...]:
        """The epoch's batches, as the first process has them."""
        with self.fabric.autocast():
            plan: Sequence[Batch] = self.task.batches(epoch) if ranks()[0] == 0 else ()
        plan = self.fabric.broadcast(tuple(plan))
        if not plan:
            raise RecipeError(f"epoch {epoch + 1} has no batch: give more photos, or ask for smaller batches")
        return tuple(plan)

    def _step(self, batch: Batch, length: int) -> None:
        position, settings, device = self.position, self.settings, self.fabric.device
        where = f"epoch {position.epoch + 1}, step {position.step + 1}"
        share = (position.epoch + position.place / length) / settings.epochs
        rate = rate_at(settings, position.epoch, position.step, share)
        set_rate(self.plain, rate)
        self.plain.zero_grad(set_to_none=True)
        with self.fabric.autocast():
            figures = self.task.backward(batch, position.epoch, position.step, self._propagate)
        if any_of(not math.isfinite(figures["loss"]), device):
            raise RecipeError(self._diverged(f"{where}: the loss is {figures['loss']}"))
        average_gradients(self.task.module)
        # It also undoes mixed precision's scale. An infinite limit clips nothing.
        clipped: Any = self.fabric.clip_gradients(
            self.task.module, self.optimiser, max_norm=settings.clip or math.inf, error_if_nonfinite=False
        )
        norm = float(clipped)
        # With 16 bits a gradient may overflow: the scaler then leaves the step out and tries a smaller scale.
        if not math.isfinite(norm) and settings.precision != "16-mixed":
            raise RecipeError(self._diverged(f"{where}: the gradient is {norm}"))
        self.optimiser.step()
        self.position = replace(position, place=position.place + 1, step=position.step + 1)
        if ranks()[0] == 0:
            place: dict[str, float | str] = {"epoch": position.epoch + 1, "step": position.step + 1, "part": "train"}
            self._write({**place, "rate": rate, "gradient": norm, **figures})
            self.progress(f"epoch {position.epoch + 1} of {settings.epochs}", position.place + 1, length)

    def _propagate(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def _diverged(self, what: str) -> str:
        return (
            f"{what}: training has diverged; the checkpoint before it is kept. Try a lower rate, such as "
            f"{self.settings.rate / 10:g}, or a limit to the gradient, clip = 1, in another --into"
        )

    def _validate(self, epoch: int) -> None:
        """Log the task's figures; of a module that has learned, keep the best."""
        position = self.position
        figures: dict[str, float] = {}
        if ranks()[0] == 0:
            with self.fabric.autocast():
                figures = self.task.validate()
        figures = self.fabric.broadcast(figures)
        if not figures:
            return
        if ranks()[0] == 0:
            self._write({"epoch": epoch, "step": position.step, "part": "validation", **figures})
        if epoch == 0:
            return
        value = next(iter(figures.values()))
        if position.best is not None and value < position.best:
            self.position = replace(self.position, stale=position.stale + 1)
            return
        stale = 0 if position.best is None or value > position.best else position.stale + 1
        self.position = replace(self.position, best=value, best_epoch=epoch, stale=stale)
        if ranks()[0] == 0:
            tensors = {f"module.{name}": tensor for name, tensor in self.task.module.state_dict().items()}
            save_tensors(self.folder / BEST, tensors, {"epoch": str(epoch)})

    def _write(self, row: Mapping[str, float | int | str]) -> None:
        assert self.log is not None
        self.log.write(row)
        self.position = replace(self.position, rows=self.log.rows)

    def _save(self) -> None:
        if self.log is None:
            return
        self.log.sync()  # the checkpoint counts its rows
        kept = Checkpoint(
            position=self.position,
            module=self.task.module.state_dict(),
            optimiser=self.plain.state_dict()["state"],
            plan=self.plan,
            identity=self.identity,
            scaler=self.fabric.strategy.precision.state_dict(),
        )
        save_checkpoint(self.folder / LAST, kept)

    def _restore(self) -> None:
        path = self.folder / LAST
        kept = load_checkpoint(path)
        check_identity(path, kept.identity, self.identity)
        try:
            self.task.module.load_state_dict(dict(kept.module))
        except RuntimeError as error:
            raise RecipeError(f"{path}: does not fit what is trained: {error}") from error
        groups = self.plain.state_dict()["param_groups"]
        self.plain.load_state_dict({"state": kept.optimiser, "param_groups": groups})
        self.fabric.strategy.precision.load_state_dict(dict(kept.scaler))
        self.position, self.plan = kept.position, kept.plan


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come since; a second one raises KeyboardInterrupt at once.

    Only a program's main thread can tell; in another nothing is changed.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return

    def handle(number: int, frame: object) -> None:
        if came.is_set():
            raise KeyboardInterrupt
        came.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
