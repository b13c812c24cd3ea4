"""Which running moments a stream of vectors needs: exact where a D×D matrix is affordable, else a sketch."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.errors import RecipeError
from resight.projection.covariance import RunningCovariance
from resight.projection.sketch import RunningSketch

_AFFORDABLE = 8192  # entries of vectors whose covariance, here 512 MiB, is kept
_ROWS = 2  # of a sketch, for each dimension that is wanted


class Moments(Protocol):
    """What a stream of n×D batches has been reduced to: its mean and its principal axes."""

    @property
    def n(self) -> int: ...

    @property
    def mean(self) -> NDArray[np.float64]: ...

    @property
    def total_variance(self) -> float: ...

    def update(self, batch: ArrayLike) -> None: ...

    def leading(self, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...


def running_moments(length: int, dimensions: int) -> RunningCovariance | RunningSketch:
    """Moments of vectors of ``length`` entries, of which ``dimensions`` principal axes will be wanted.

    Memory: D² float64 up to D = 8192 entries; above, the smaller of that and of a sketch's 4·K·D, which is exact
    for nearly 4·K vectors.
    """
    sketched = length > _AFFORDABLE and 2 * _ROWS * dimensions < length
    return RunningSketch(_ROWS * dimensions) if sketched else RunningCovariance()


def gather(batches: Iterable[ArrayLike], dimensions: int) -> RunningCovariance | RunningSketch:
    """The moments of batches of n×D vectors, each read once, as ``running_moments`` chooses them.

    Raises RecipeError where there is no batch.
    """
    source = iter(batches)
    first = next(source, None)
    if first is None:
        raise RecipeError("there are no vectors to learn a projection from: give readable photos")
    moments = running_moments(np.shape(first)[-1], dimensions)
    moments.update(first)
    for batch in source:
        moments.update(batch)
    return moments
