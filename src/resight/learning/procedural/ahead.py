"""Pictures that are rendered before they are asked for, by processes of their own."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
import torch.multiprocessing  # sends tensors between processes as shared memory
from torch import Tensor

from resight.errors import RecipeError
from resight.learning.procedural.scenes import Scenes, render
from resight.learning.procedural.settings import Rendering
from resight.processes import GuardlessContext, begin

_AHEAD = 3  # batches that wait, for each process

_Fields = tuple[Tensor, Tensor, Tensor, Tensor]


class Ahead:
    """Subjects of a seed in batches, one after another, rendered ahead; the pictures are those of ``render``.

    count: subjects of a batch. stride: from a batch's first subject to the next one's. end: subjects from which on none
    is asked for. settings: by a batch's first subject. processes: that render; 0 renders when asked. device: on which
    the scenes are wanted.
    Close it at the end: it has processes.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        stride: int,
        end: int,
        side: int,
        *,
        settings: Callable[[int], Rendering],
        processes: int,
        device: torch.device,
    ) -> None:
        self._job: Callable[[int], tuple[Any, ...]] = lambda first: (seed, first, count, side, settings(first))
        self._stride, self._end, self._processes, self._device = stride, end, processes, device
        self._waiting: dict[int, Future[_Fields]] = {}
        self._pool: ProcessPoolExecutor | None = None

    def take(self, first: int) -> Scenes:
        """The batch of the subjects from ``first`` on. Raises RecipeError where a process that renders has ended."""
        seed, first, count, side, own = self._job(first)
        if not self._processes:
            return render(seed, first, count, side, device=str(self._device), settings=own)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._processes, mp_context=GuardlessContext(), initializer=_begin, initargs=(os.getpid(),)
            )
        last = min(first + _AHEAD * self._processes * self._stride, self._end - 1)
        try:
            for number in range(first, last + 1, self._stride):
                if number not in self._waiting:
                    self._waiting[number] = self._pool.submit(_rendered, *self._job(number))
            levels, warp, visible, subject = (x.to(self._device) for x in self._waiting.pop(first).result())
        except BrokenProcessPool as error:
            raise RecipeError(
                "a process that renders pictures was ended, as by lack of memory: go on with --resume, and "
                "--set renderers=0 to render in the training's own"
            ) from error
        return Scenes(levels.float() / 255, warp, visible, subject)

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._waiting.clear()


def _begin(parent: int) -> None:
    begin(parent)
    torch.set_num_threads(1)


def _rendered(seed: int, first: int, count: int, side: int, settings: Rendering) -> _Fields:
    """The fields of ``Scenes``, pictures as the levels that they are rounded to."""
    scenes = render(seed, first, count, side, settings=settings)
    levels = (scenes.images * 255).round().to(torch.uint8)
    return levels, scenes.warp, scenes.visible, scenes.subject
