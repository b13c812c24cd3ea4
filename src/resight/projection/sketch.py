"""Mean and leading principal axes of a stream of vectors too long for a covariance matrix: Frequent Directions."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import qr

from resight.projection.covariance import RunningMean


class RunningSketch:
    """Principal axes of a stream in O(ℓD) memory: Frequent Directions (Liberty, KDD 2013), of the centred vectors.

    rows: ℓ. While at most 2ℓ - 1 rows (vectors, and one for each batch) were seen, nothing is approximated. After
    that, with scatter S = Σ(x - μ)(x - μ)ᵀ and its best approximation S_k of rank k, the scatter Ŝ that ``leading``
    decomposes satisfies ‖S - Ŝ‖₂ ≤ tr(S - S_k) / 2(ℓ - k) for every k < ℓ: half the bound of Ghashami et al. (SICOMP
    2016), as half of what shrinking took away is given back to every direction (Luo et al., JMLR 2019).
    """

    def __init__(self, rows: int) -> None:
        if rows < 1:
            raise ValueError(f"a sketch needs at least one row, not {rows}")
        self._running = RunningMean()
        self._keep = rows
        self._sketch: NDArray[np.float64] = np.zeros((0, 0))
        self._filled = 0
        self._shrunk = 0.0  # what was taken from each kept squared singular value
        self._trace = 0.0

    def update(self, batch: ArrayLike) -> None:
        """Add n×D vectors. Raises as ``RunningMean.add``."""
        rows = self._running.add(batch)
        self._trace += float(np.vdot(rows, rows))
        if self._sketch.size == 0:
            self._sketch = np.zeros((2 * self._keep, rows.shape[1]))
        while len(rows):
            taken = rows[: len(self._sketch) - self._filled]
            self._sketch[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == len(self._sketch):
                self._shrink()

    @property
    def n(self) -> int:
        """How many vectors it has seen."""
        return self._running.n

    @property
    def mean(self) -> NDArray[np.float64]:
        """(D,), exact."""
        return self._running.mean.copy()

    @property
    def total_variance(self) -> float:
        """The trace of the covariance, exact."""
        return self._trace / self._freedom

    @property
    def error(self) -> float:
        """Bound on the spectral norm of the error in the covariance; 0 where nothing was approximated."""
        return self._shrunk / 2 / self._freedom

    def leading(self, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The k largest variances, descending, and their principal axes: (k,) and k×D.

        Each variance is within ``error`` of the true one. Raises ValueError for k above ℓ or the vectors seen.
        """
        if not 1 <= k <= min(self._keep, self._filled):
            raise ValueError(f"a sketch of {self._keep} rows, {self._filled} seen, has no {k} axes")
        squared, rotated = self._principal(k)
        axes, _ = qr(rotated.T, mode="economic", overwrite_a=True)  # rows of next to no length have lost their angles
        return (squared[:k] + self._shrunk / 2) / self._freedom, axes.T

    def _shrink(self) -> None:
        squared, rotated = self._principal(self._keep)
        least = squared[self._keep]
        left = np.sqrt(np.maximum(squared[: self._keep] - least, 0.0))
        lengths = np.sqrt(np.maximum(squared[: self._keep], np.finfo(np.float64).tiny))
        self._sketch[: self._keep] = rotated * (left / lengths)[:, np.newaxis]
        self._sketch[self._keep :] = 0.0
        self._filled = self._keep
        self._shrunk += least

    def _principal(self, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """All squared singular values of the rows, descending, and the first k rows rotated to the principal axes.

        By way of the rows' inner products, ten times as fast as a singular value decomposition of rows this long.
        """
        rows = self._sketch[: self._filled]
        squared, vectors = np.linalg.eigh(rows @ rows.T)
        return np.maximum(squared[::-1], 0.0), vectors.T[::-1][:k] @ rows

    @property
    def _freedom(self) -> int:
        if self.n < 2:
            raise ValueError(f"a covariance needs at least two vectors, not {self.n}")
        return self.n - 1
