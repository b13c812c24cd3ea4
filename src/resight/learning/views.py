"""What a network's frozen beginning gives for several views of each photo, kept on disk to be learned from again."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.errors import RecipeError
from resight.learning.ranks import barrier, ranks

Prefix = Callable[[NDArray[np.int64], int], Tensor]
"""Places of photos and the view's number → n×… floating outputs of the frozen beginning."""


class KeptViews:
    """A memory-mapped file of views×photos×… numbers, filled view by view when they are first needed.

    prefix: makes the rows. chunk: photos of each call of it, which are always the same ones, so that rows do not depend
    on what is asked for.
    Raises RecipeError where the disk has no room for all of it.
    """

    def __init__(
        self, file: Path, prefix: Prefix, *, views: int, photos: int, shape: Sequence[int], dtype: str, chunk: int
    ) -> None:
        self._prefix, self._photos, self._chunk = prefix, photos, chunk
        self._filled: set[int] = set()
        whole = (views, photos, *shape)
        self.bytes = int(np.prod(whole)) * np.dtype(dtype).itemsize
        if ranks()[0] == 0:
            free = shutil.disk_usage(file.parent).free
            if self.bytes > 0.95 * free:
                raise RecipeError(
                    f"{file.parent}: {views} views of {photos:,} photos need {self.bytes / 1e9:.1f} GB, and there are "
                    f"{free / 1e9:.1f} GB: ask for fewer (views), or compute them anew each time (views = 0)"
                )
            np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=whole).flush()
        barrier()
        self._rows = np.load(file, mmap_mode="r+")

    def fill(self, views: Iterable[int]) -> None:
        """Make views ready, unless they are. Of processes that train together all must call it; each fills its share.

        Raises RecipeError where what is to be kept is too large for float16.
        """
        for view in sorted(set(views) - self._filled):
            self._fill(view)
            self._filled.add(view)

    def rows(self, views: NDArray[np.int64], places: NDArray[np.int64]) -> Tensor:
        """What the prefix gave for photos, each in a view that is ready, n×…, float32 on the CPU."""
        return torch.from_numpy(self._rows[views, places].astype(np.float32))

    def _fill(self, view: int) -> None:
        rank, world = ranks()
        for start in range(rank * self._chunk, self._photos, world * self._chunk):
            places = np.arange(start, min(start + self._chunk, self._photos))
            with np.errstate(over="ignore"):
                rows = self._prefix(places, view).float().cpu().numpy().astype(self._rows.dtype)
            if not np.isfinite(rows).all():
                raise RecipeError("what the network's beginning gives is too large for float16: views_dtype = float32")
            self._rows[view, places] = rows
        self._rows.flush()
        barrier()
