"""A learned projection: centre, multiply by a matrix, ℓ2-normalise (survey §4.2, post-processing)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.artefact import artefact_fingerprint, load_artefact_of, save_artefact
from resight.errors import RecipeError
from resight.features.multiscale import l2_normalise
from resight.fitted import PhotoSketch

Kind = Literal["pca", "pca-whitening", "learned-whitening"]


@dataclass(frozen=True, eq=False)
class Projection:
    """x ↦ ℓ2(P(x - m)).

    mean: m, (D,) float32. matrix: P, K×D float32, whose rows go from the most to the least important.
    kind: how it was learned; see ``pca``, ``pca_whitening`` and ``learned_whitening``.
    n, fitted_on: how many vectors it was learned from, and which, in words that go into reports.
    descriptor: fingerprint of what made the vectors; others must not be projected with it.
    photos: which photos the vectors are of, where that is known.
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]
    kind: Kind
    n: int
    fitted_on: str
    descriptor: str
    photos: PhotoSketch | None = None

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.matrix.ndim != 2 or self.matrix.shape[1] != len(self.mean):
            raise ValueError(f"mean must be (D,) and matrix K×D, not {self.mean.shape}, {self.matrix.shape}")

    @property
    def dimension(self) -> int:
        """K, the length of what ``transform`` returns."""
        return len(self.matrix)

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind and the learned values, in hex; ``fitted_on`` and the like do not enter."""
        return artefact_fingerprint(self.kind, self._tensors())

    def transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """…×D to …×K float32, ℓ2-normalised; a vector equal to the mean becomes zero."""
        vectors = np.asarray(x, dtype=np.float64)
        if vectors.shape[-1:] != self.mean.shape:
            raise ValueError(f"vectors must have {len(self.mean)} entries, not shape {vectors.shape}")
        centred = (vectors - self.mean).astype(np.float32)
        return l2_normalise(centred @ self.matrix.T).astype(np.float32)

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        meta = {
            "n": self.n,
            "fitted_on": self.fitted_on,
            "dimension": self.dimension,
            "descriptor": self.descriptor,
            **({"photos": self.photos.to_json()} if self.photos else {}),
        }
        return save_artefact(path, self.kind, self._tensors(), meta)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        kind, tensors, meta = load_artefact_of(path, get_args(Kind))
        try:
            return cls(
                mean=tensors["mean"],
                matrix=tensors["projection"],
                kind=cast(Kind, kind),
                n=int(meta["n"]),
                fitted_on=str(meta["fitted_on"]),
                descriptor=str(meta["descriptor"]),
                photos=PhotoSketch.from_json(meta["photos"]) if "photos" in meta else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a projection that this version can use: {error}") from error

    def _tensors(self) -> dict[str, NDArray[np.float32]]:
        return {"mean": self.mean, "projection": self.matrix}
