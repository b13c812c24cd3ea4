"""Mean and covariance of a stream of vectors, exactly, in memory that does not grow with the stream."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import blas, eigh


class RunningMean:
    """Mean of a stream of vectors, and how each batch changes the scatter Σ(x - μ)(x - μ)ᵀ about it, in float64."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: NDArray[np.float64] = np.zeros(0)

    def add(self, batch: ArrayLike) -> NDArray[np.float64]:
        """Add n×D vectors; returns n+1 rows (none for n = 0) whose outer products sum to the growth of the scatter.

        This is the update of Chan, Golub & LeVeque (1983), which does not cancel as Σxxᵀ - n·μμᵀ does.
        Raises ValueError for vectors that are not finite or not of the length of those before.
        """
        x = np.asarray(batch, dtype=np.float64)
        if x.ndim != 2 or not np.isfinite(x).all():
            raise ValueError(f"a batch must be n×D and finite, not {x.shape}")
        if self.n and x.shape[1] != len(self.mean):
            raise ValueError(f"a batch has vectors of {x.shape[1]} entries after others of {len(self.mean)}")
        if len(x) == 0:
            return x
        before, total = self.n, self.n + len(x)
        mean = x.mean(axis=0)
        shift = mean - self.mean if before else mean
        rows = np.vstack([x - mean, shift * np.sqrt(before * len(x) / total)])
        self.mean = self.mean + shift * (len(x) / total) if before else mean
        self.n = total
        return rows

    def merge(self, other: "RunningMean") -> NDArray[np.float64]:
        """Add all that another has seen; returns (D,), whose outer product is what that adds to both scatters."""
        if self.n and other.n and len(other.mean) != len(self.mean):
            raise ValueError(f"vectors of {len(other.mean)} entries cannot join others of {len(self.mean)}")
        before, total = self.n, self.n + other.n
        if before == 0:
            self.n, self.mean = other.n, other.mean.copy()
            return np.zeros(len(self.mean))
        if other.n == 0:
            return np.zeros(len(self.mean))
        shift = other.mean - self.mean
        self.mean = self.mean + shift * (other.n / total)
        self.n = total
        return shift * float(np.sqrt(before * other.n / total))


class RunningCovariance:
    """Mean and covariance of a stream of vectors in O(D²) memory, float64."""

    def __init__(self) -> None:
        self._running = RunningMean()
        self._scatter: NDArray[np.float64] = np.zeros((0, 0), order="F")  # its lower triangle; above are zeros

    def update(self, batch: ArrayLike) -> None:
        """Add n×D vectors. Raises as ``RunningMean.add``."""
        rows = self._running.add(batch)
        if len(rows) == 0:
            return
        if self._scatter.size == 0:
            self._scatter = np.zeros((rows.shape[1], rows.shape[1]), order="F")
        # In place: a D×D temporary for each batch would be most of the time and of the memory.
        self._scatter = blas.dsyrk(1.0, rows.T, beta=1.0, c=self._scatter, lower=1, overwrite_c=1)

    def merge(self, other: "RunningCovariance") -> None:
        """Add all that another has seen, which stays as it is; ValueError for vectors of another length.

        As if they had come in its stream, up to rounding (Chan, Golub & LeVeque 1983, Eq. 2.1).
        """
        if other.n == 0:
            return
        shift = self._running.merge(other._running)
        if self._scatter.size == 0:
            self._scatter = other._scatter.copy(order="F")
            return
        self._scatter += other._scatter
        self._scatter = blas.dsyrk(1.0, shift[:, None], beta=1.0, c=self._scatter, lower=1, overwrite_c=1)

    @property
    def n(self) -> int:
        """How many vectors it has seen."""
        return self._running.n

    @property
    def mean(self) -> NDArray[np.float64]:
        """(D,)."""
        return self._running.mean.copy()

    @property
    def covariance(self) -> NDArray[np.float64]:
        """D×D, unbiased (divided by n - 1); needs two vectors."""
        return (self._scatter + np.tril(self._scatter, -1).T) / self._freedom

    @property
    def total_variance(self) -> float:
        """The trace of the covariance."""
        return float(np.trace(self._scatter)) / self._freedom

    def leading(self, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The k largest variances, descending, and their principal axes: (k,) and k×D."""
        values, axes = largest_eigenvectors(self._scatter, k)
        return values / self._freedom, axes

    def second_moment(self, centre: ArrayLike) -> NDArray[np.float64]:
        """D×D: the mean of (x - centre)(x - centre)ᵀ."""
        shift = self._running.mean - np.asarray(centre, dtype=np.float64)
        return (self._scatter + np.tril(self._scatter, -1).T) / self.n + np.outer(shift, shift)

    @property
    def _freedom(self) -> int:
        if self.n < 2:
            raise ValueError(f"a covariance needs at least two vectors, not {self.n}")
        return self.n - 1


def largest_eigenvectors(symmetric: NDArray[np.float64], k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The k largest eigenvalues, descending, and eigenvectors of a symmetric D×D matrix: (k,) and k×D.

    Reads the lower triangle. LAPACK's relatively robust representations find just these k; ARPACK is quicker for k
    far below D/16, but its restarts are random where eigenvalues coincide.
    """
    size = len(symmetric)
    values, vectors = eigh(symmetric, lower=True, subset_by_index=(size - k, size - 1), driver="evr")
    return values[::-1], vectors.T[::-1]
