"""FAemb: features by local quadratic function approximation (survey §4.2.1; Do, Tran & Cheung, CVPR 2015; Do & Cheung,
"Embedding based on function approximation for large scale image search", TPAMI 2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.embedding.democratic import Aggregation
from resight.embedding.embedding import Features, Weights
from resight.embedding.triangulation import (
    check_features,
    check_options,
    draw,
    encode_sets,
    learn_whitening,
)
from resight.errors import RecipeError

KIND = "function-approximation-embedding"
_RIDGE = 1e-10  # of the coding's matrix, as a multiple of its trace: it is singular where a feature is an anchor


@dataclass(frozen=True, eq=False)
class Faemb:
    """A feature x as [s1·γ_j, s2·γ_j (x − v_j), γ_j V((x − v_j)(x − v_j)ᵀ)] over anchors v_j, whitened, aggregated.

    With these entries, Σ_j γ_j times the Taylor expansion of second order around v_j, which approximates any smooth
    function at x, is linear in the embedding.

    From the papers: the embedding and its weights s1, s2; anchors and codes learned together by alternation from
    k-means; whitening, axes of most variance dropped, democratic aggregation and power law as T-embedding has them.
    Ours: the coding. The papers bound the error of the approximation by Σ|γ_j|·‖x − v_j‖³, which takes iterations to
    minimise, and relax it in their fast version to have a closed form. Here it is Σ γ_j² ‖x − v_j‖², the locality of
    locality-constrained coding (Wang et al., CVPR 2010) with squared distances, since both steps of the alternation
    are then exact. V's entries off the diagonal are times √2, so that inner products are those of the matrices.

    anchors: A×D float32. mean: (P,), projection: K×P float32, P as ``approximate`` gives it.
    locality: μ of ``encode``. weights: (s1, s2); parts with weight 0 are left out.
    aggregation, power, fitted_on: as in ``Triangulation``.
    """

    anchors: Features
    mean: Features
    projection: Features
    fitted_on: str
    locality: float = 1.0
    weights: tuple[float, float] = (0.0, 0.0)
    aggregation: Aggregation = "democratic"
    power: float = 0.5

    def __post_init__(self) -> None:
        if self.anchors.ndim != 2 or self.locality <= 0 or min(self.weights) < 0:
            raise ValueError(
                f"anchors must be A×D, locality above 0 and weights not below 0, not {self.anchors.shape}, "
                f"{self.locality}, {self.weights}"
            )
        check_options(self.projection, self.mean, self.aggregation, self.power)

    @classmethod
    def fit(
        cls,
        features: Features,
        centroids: Features,
        *,
        seed: int,
        fitted_on: str,
        locality: float = 1.0,
        weights: tuple[float, float] = (0.0, 0.0),
        iterations: int = 20,
        drop: int | None = None,
        sample: int = 100_000,
        aggregation: Aggregation = "democratic",
        power: float = 0.5,
    ) -> Self:
        """Learn anchors, starting from A×D centroids, and the whitening, from N×D features.

        iterations: of ``learn_anchors``. drop: how many of the first principal axes to leave out; by default as many
            as one anchor has entries, so that 8 anchors of 45 dimensions give 7,245 in second order alone.
        sample: at most so many features are used, drawn with ``seed``.
        The covariance takes P² float64 values. D is best reduced by PCA first: P grows with D².
        Raises RecipeError unless there are more features than P, and ValueError for other shapes.
        """
        drawn = draw(features, sample, seed)
        check_features(centroids, drawn.shape[1], "centroids")
        anchors = learn_anchors(drawn, centroids, locality, iterations)
        if drop is None:
            drop = approximate(drawn[:1], anchors, locality, weights).shape[1] // len(anchors)
        mean, projection = learn_whitening(lambda x: approximate(x, anchors, locality, weights), drawn, drop)
        return cls(anchors, mean, projection, fitted_on, locality, weights, aggregation, power)

    @property
    def dimension(self) -> int:
        """K, the length of what ``transform`` returns."""
        return len(self.projection)

    @property
    def input_dimension(self) -> int:
        """D, the length of a feature."""
        return int(self.anchors.shape[1])

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind, the learned values and the options, in hex; ``fitted_on`` does not enter."""
        return artefact_fingerprint(KIND, self._tensors())

    def transform(self, features: Features) -> Features:
        """n×D to (K,) float32, ℓ2-normalised; zeros for no features."""
        vector: Features = self.transform_sets([features])[0]
        return vector

    def transform_sets(self, sets: Sequence[Features], weights: Weights | None = None) -> Features:
        """N sets of n_i×D features to N×K float32, weights as ``Embedding`` has them. ValueError for another D."""
        for features in sets:
            check_features(features, self.input_dimension)
        return encode_sets(
            lambda x: approximate(x, self.anchors, self.locality, self.weights),
            self.mean,
            self.projection,
            sets,
            weights,
            self.aggregation,
            self.power,
        )

    def save(self, path: str | Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        return save_artefact(path, KIND, self._tensors(), {"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        tensors, meta = load_artefact(path, KIND)
        try:
            s1, s2 = tensors["weights"]
            return cls(
                tensors["anchors"],
                tensors["mean"],
                tensors["projection"],
                str(meta["fitted_on"]),
                float(tensors["locality"]),
                (float(s1), float(s2)),
                "democratic" if tensors["democratic"] else "sum",
                float(tensors["power"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a FAemb that this version can use: {error}") from error

    def _tensors(self) -> dict[str, NDArray[np.generic]]:
        return {
            "anchors": self.anchors,
            "mean": self.mean,
            "projection": self.projection,
            "locality": np.array(self.locality),
            "weights": np.array(self.weights),
            "democratic": np.array(self.aggregation == "democratic"),
            "power": np.array(self.power),
        }


def encode(features: Features, anchors: NDArray[np.floating], locality: float) -> NDArray[np.float64]:
    """Codes γ, n×A float64, each row summing to 1, least in ‖x − Σ γ_j v_j‖² + locality · Σ γ_j² ‖x − v_j‖².

    With Σγ = 1 that is γᵀ(C + locality·diag C)γ for C_jl = (v_j − x)·(v_l − x), so γ is in proportion to the solution
    of (C + locality·diag C) γ = 1. A feature that is an anchor has that anchor's code.
    """
    gaps = anchors[np.newaxis].astype(np.float64) - features[:, np.newaxis]
    matrix = gaps @ gaps.transpose(0, 2, 1)
    diagonal = np.einsum("naa->na", matrix)  # a view
    diagonal *= 1 + locality
    diagonal += np.maximum(_RIDGE * diagonal.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    codes = np.linalg.solve(matrix, np.ones((*diagonal.shape, 1)))[:, :, 0]
    return np.asarray(codes / codes.sum(axis=1, keepdims=True))


def learn_anchors(features: Features, anchors: Features, locality: float, iterations: int) -> Features:
    """Anchors A×D float32 that lower the sum over features of what ``encode`` minimises, by alternation from others.

    Given the codes Γ it is quadratic in the anchors: (ΓᵀΓ + locality·diag Σ_i γ_ij²) V = ΓᵀX + locality·(Γ∘Γ)ᵀX.
    """
    x = features.astype(np.float64)
    learned: NDArray[np.floating] = anchors.astype(np.float64)
    for _ in range(iterations):
        codes = encode(features, learned, locality)
        squares = codes**2
        matrix = codes.T @ codes + locality * np.diag(squares.sum(axis=0))
        learned = np.linalg.solve(matrix, codes.T @ x + locality * squares.T @ x)
    return learned.astype(np.float32)


def approximate(features: Features, anchors: Features, locality: float, weights: tuple[float, float]) -> Features:
    """The embedding before whitening, n×P float32: anchor by anchor [s1·γ, s2·γ(x − v), γ·V((x − v)(x − v)ᵀ)].

    V takes the diagonal and what is above it, row by row, the latter times √2. P is A·D(D + 1)/2, plus A for s1 above
    0 and A·D for s2 above 0.
    """
    codes = encode(features, anchors, locality)[:, :, np.newaxis]
    residuals = features[:, np.newaxis] - anchors.astype(np.float64)
    row, column = np.triu_indices(anchors.shape[1])
    second = residuals[:, :, row] * residuals[:, :, column] * np.where(row == column, 1.0, np.sqrt(2))
    zeroth, first = weights
    parts = [np.full_like(codes, zeroth)] * (zeroth > 0) + [first * residuals] * (first > 0) + [second]
    embedded = (codes * np.concatenate(parts, axis=2)).astype(np.float32)
    return embedded.reshape(len(features), embedded.shape[1] * embedded.shape[2])
