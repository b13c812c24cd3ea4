"""PCA-whitening (survey §4.2; Jégou & Chum, ECCV 2012), learned from a stream in bounded memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.errors import RecipeError
from resight.features.multiscale import l2_normalise

_KIND = "pca-whitening"


class RunningCovariance:
    """Mean and covariance of a stream of vectors in O(D²) memory, float64.

    Batches are merged by the update of Chan, Golub & LeVeque (1983), which does not cancel as Σxxᵀ - n·μμᵀ
    does.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: NDArray[np.float64] = np.zeros(0)
        self._scatter: NDArray[np.float64] = np.zeros((0, 0))

    def update(self, batch: ArrayLike) -> None:
        """Add n×D vectors."""
        x = np.asarray(batch, dtype=np.float64)
        if x.ndim != 2 or not np.isfinite(x).all():
            raise ValueError(f"a batch must be n×D and finite, not {x.shape}")
        if len(x) == 0:
            return
        if self.n == 0:
            self._mean, self._scatter = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        mean = x.mean(axis=0)
        centred, shift = x - mean, mean - self._mean
        total = self.n + len(x)
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.n * len(x) / total)
        self._mean += shift * (len(x) / total)
        self.n = total

    @property
    def mean(self) -> NDArray[np.float64]:
        """(D,)."""
        return self._mean.copy()

    @property
    def covariance(self) -> NDArray[np.float64]:
        """D×D, unbiased (divided by n - 1); needs two vectors."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least two vectors, not {self.n}")
        return self._scatter / (self.n - 1)


@dataclass(frozen=True, eq=False)
class PcaWhitening:
    """Centre, project on the first K principal axes, divide by their standard deviations, ℓ2-normalise.

    mean: (D,) float32. projection: K×D float32, the axes already divided.
    n, fitted_on: how many vectors it was learned from, and which, in words that go into reports.
    descriptor: fingerprint of what made the vectors; others must not be projected with it.
    """

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]
    n: int
    fitted_on: str
    descriptor: str

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.projection.ndim != 2 or self.projection.shape[1] != len(self.mean):
            raise ValueError(f"mean must be (D,) and projection K×D, not {self.mean.shape}, {self.projection.shape}")

    @classmethod
    def fit(
        cls,
        batches: Iterable[ArrayLike],
        dimensions: int,
        *,
        fitted_on: str,
        descriptor: str,
        ridge: float = 10.0,
    ) -> Self:
        """Learn from batches of n×D vectors, each read once.

        Raises as ``of``.
        """
        moments = RunningCovariance()
        for batch in batches:
            moments.update(batch)
        return cls.of(moments, dimensions, fitted_on=fitted_on, descriptor=descriptor, ridge=ridge)

    @classmethod
    def of(
        cls,
        moments: RunningCovariance,
        dimensions: int,
        *,
        fitted_on: str,
        descriptor: str,
        ridge: float = 10.0,
    ) -> Self:
        """Learn from the mean and covariance of D-dimensional vectors.

        ridge: added to every variance, as a multiple of the mean variance over all D axes. 0 whitens fully,
            which needs very many vectors of the kind that is searched; large values only rotate.
        An axis's sign is chosen so that its largest entry by magnitude is positive.
        Raises RecipeError unless there are more vectors than ``dimensions`` and D is at least ``dimensions``.
        """
        if moments.n <= dimensions:
            raise RecipeError(
                f"whitening to {dimensions} dimensions is learned from more than {dimensions} photos, better "
                f"several times as many; here are {moments.n}: give more, or lower `dimensions` in the recipe"
            )
        if dimensions > len(moments.mean):
            raise RecipeError(
                f"`dimensions` is {dimensions}, but the descriptor has only {len(moments.mean)}: lower it"
            )
        variances, axes = np.linalg.eigh(moments.covariance)
        variances, axes = variances[::-1][:dimensions], axes.T[::-1][:dimensions]
        peaks = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, np.newaxis], axis=1)
        floor = ridge * np.trace(moments.covariance) / len(moments.mean)
        scale = np.sign(peaks[:, 0]) / np.sqrt(np.maximum(variances, 0.0) + floor)
        return cls(
            mean=moments.mean.astype(np.float32),
            projection=(axes * scale[:, np.newaxis]).astype(np.float32),
            n=moments.n,
            fitted_on=fitted_on,
            descriptor=descriptor,
        )

    @property
    def dimension(self) -> int:
        """K, the length of what ``transform`` returns."""
        return len(self.projection)

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind and the learned values, in hex; ``fitted_on`` and the like do not enter."""
        return artefact_fingerprint(_KIND, self._tensors())

    def transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """…×D to …×K float32, ℓ2-normalised; a vector equal to the mean becomes zero."""
        vectors = np.asarray(x, dtype=np.float64)
        if vectors.shape[-1:] != self.mean.shape:
            raise ValueError(f"vectors must have {len(self.mean)} entries, not shape {vectors.shape}")
        centred = (vectors - self.mean).astype(np.float32)
        return l2_normalise(centred @ self.projection.T).astype(np.float32)

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        meta = {
            "n": self.n,
            "fitted_on": self.fitted_on,
            "dimension": self.dimension,
            "descriptor": self.descriptor,
        }
        return save_artefact(path, _KIND, self._tensors(), meta)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        tensors, meta = load_artefact(path, _KIND)
        try:
            return cls(
                mean=tensors["mean"],
                projection=tensors["projection"],
                n=int(meta["n"]),
                fitted_on=str(meta["fitted_on"]),
                descriptor=str(meta["descriptor"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a whitening that this version can use: {error}") from error

    def _tensors(self) -> dict[str, NDArray[np.float32]]:
        return {"mean": self.mean, "projection": self.projection}
