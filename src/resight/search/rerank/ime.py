"""Iterative manifold embedding, IME (Xu et al., IEEE TMM 2018): a linear layer that brings manifolds close together.

Off line the database's vectors X become Y: distances along the kNN graph, g, give similarities 1/(1 + g²), to which
w/(1 + |x − x'|²) is added for what the graph does not connect; their kernel PCA, ℓ2-normalised, is the next X. The
layer is the ridge regression (XᵀX + λI)⁻¹XᵀY of the last Y on the first X; on line it maps a query in one product.
As the authors' code does, but for the graph: theirs is the matrix product of the kNN distances with themselves.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, solve
from scipy.sparse.csgraph import shortest_path

from resight.artefact import load_artefact, save_artefact
from resight.errors import QueryError, RecipeError
from resight.features.multiscale import l2_normalise
from resight.search.ranking import Ranking
from resight.search.rerank.neighbours import knn_graph
from resight.search.rerank.reranker import Database, best, check_query, first

KIND = "manifold-layer"
_LEAST = 1e-12  # a distance of 0 between copies would be taken for no edge


def manifold_similarity(vectors: NDArray[np.float32], k: int = 5, weight: float = 2.0) -> NDArray[np.float64]:
    """N×N 1/(1 + g²) + w/(1 + |x − x'|²) of N×D ℓ2-normalised vectors; g is infinite between separate components."""
    edges = knn_graph(vectors, k)
    edges.data = np.maximum(_LEAST, np.sqrt(np.maximum(0, 2 - 2 * edges.data)))
    geodesic = shortest_path(edges, directed=False)
    squared = np.maximum(0, 2 - 2 * (vectors @ vectors.T).astype(np.float64))
    return np.asarray(1 / (1 + geodesic**2) + weight / (1 + squared))


def kernel_pca(kernel: NDArray[np.float64], dimensions: int) -> NDArray[np.float64]:
    """N×dimensions coordinates whose inner products best give the doubly centred symmetric kernel, N×N."""
    n = len(kernel)
    mean = kernel.mean(axis=0)
    centred = kernel - mean - mean[:, None] + mean.mean()
    values, axes = eigh(centred, subset_by_index=[n - dimensions, n - 1])
    return np.asarray(axes * np.sqrt(np.maximum(values, 0)))


@dataclass(frozen=True, eq=False)
class ManifoldLayer:
    """The layer, and what it was learned towards. Ranks all images it was fitted on.

    matrix: D×M float64. representations: these images, M-dimensional.
    """

    matrix: NDArray[np.float64]
    representations: Database

    @classmethod
    def fit(
        cls,
        database: Database,
        dimensions: int,
        *,
        k: int = 5,
        weight: float = 2.0,
        iterations: int = 2,
        ridge: float = 1.0,
    ) -> Self:
        """Learn from a database; defaults are those of the authors' code, with its `dimensions` of 2048.

        dimensions: M, at most N. ridge: λ. Takes memory for some four N×N matrices of 8 bytes and O(N³) time.
        Raises RecipeError for values out of range.
        """
        if not 1 <= dimensions <= len(database):
            raise RecipeError(f"dimensions must be between 1 and the {len(database)} images, not {dimensions}")
        if iterations < 1 or weight < 0 or ridge <= 0:
            raise RecipeError("iterations must be 1 or more, weight not below 0, and ridge above 0")
        y = database.vectors
        for _ in range(iterations):
            y = l2_normalise(kernel_pca(manifold_similarity(y, k, weight), dimensions)).astype(np.float32)
        x = database.vectors.astype(np.float64)
        matrix = solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y, assume_a="pos")
        return cls(matrix, Database(database.ids, y))

    def save(self, path: str | Path) -> str:
        """Write the artefact and return its fingerprint; raises as ``save_artefact``."""
        found = self.representations
        tensors: dict[str, NDArray[Any]] = {"matrix": self.matrix, "ids": found.ids, "representations": found.vectors}
        return save_artefact(path, KIND, tensors, {"fitted_on": f"the {len(found):,} images it ranks"})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What ``save`` wrote. Raises RecipeError as ``load_artefact``."""
        tensors, _ = load_artefact(path, KIND)
        return cls(tensors["matrix"], Database(tensors["ids"], tensors["representations"]))

    def transform(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """…×D → …×M, ℓ2-normalised. Raises QueryError for another D."""
        if vectors.shape[-1] != len(self.matrix):
            raise QueryError(f"the layer takes vectors of {len(self.matrix)} entries, not {vectors.shape[-1]}")
        return l2_normalise(vectors @ self.matrix).astype(np.float32)

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        """All images of the fit by cosine to the mapped query; other images of the ranking follow in their order."""
        check_query(query, database.dimension)
        scores = self.representations.vectors @ self.transform(query)
        return first(ranking, *best(self.representations.ids, scores))
