"""Diffusion of a query's similarity along the neighbour graph (Iscen et al., CVPR 2017; survey §5.2).

f = (I − αS)⁻¹ y, where S = D^(−1/2) W D^(−1/2) of the affinities W of reciprocal neighbours, D their row sums, and y
the affinities of the query to its nearest vectors. The paper's factor 1 − α, which moves no rank, is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import spsolve

from resight.errors import RecipeError
from resight.search.ranking import Ranking
from resight.search.rerank.neighbours import mutual_graph, nearest
from resight.search.rerank.reranker import Database, best, check_query, first, head


def normalised(edges: csr_array) -> csr_array:
    """S = D^(−1/2) W D^(−1/2) of a symmetric graph; nodes without edges keep none. Its eigenvalues lie in [−1, 1]."""
    degree = np.asarray(edges.sum(axis=1)).ravel()
    scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    scaled = edges.copy()
    scaled.data = scaled.data * np.repeat(scale, np.diff(edges.indptr)) * scale[edges.indices]
    return scaled


def sources(query: NDArray[np.float32], vectors: NDArray[np.float32], k: int, gamma: float) -> NDArray[np.float64]:
    """y, (N,): max(s, 0)^γ of the k vectors nearest to the query, 0 for the others.

    query: (D,), or Q×D for several vectors of one query, whose y are added (Iscen et al., Eq. 9).
    """
    if k < 1:
        raise RecipeError(f"sources must be 1 image or more, not {k}")
    rows, similarity = nearest(np.atleast_2d(query), vectors, k)
    weights = np.maximum(similarity.astype(np.float64), 0) ** gamma
    y = np.zeros(len(vectors))
    np.add.at(y, rows, weights)
    return y


def closed_form(s: csr_array, y: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """(I − αS)⁻¹ y by sparse elimination: exact, and for some thousands of nodes; y is (N,) or N×M."""
    check_alpha(alpha)
    if len(y) == 0:
        return y.copy()
    return np.asarray(spsolve((eye_array(len(y)) - alpha * s).tocsc(), y)).reshape(y.shape)


def conjugate_gradient(
    multiply: Callable[[NDArray[np.float64]], Any], b: NDArray[np.float64], tolerance: float, iterations: int
) -> NDArray[np.float64]:
    """Solve A_m x_m = b_m for each row m of b, all A_m symmetric and positive definite (Hestenes & Stiefel, 1952).

    multiply: M×T → M×T, A_m times row m.
    Ends when every residual is at most `tolerance` times its b, or after `iterations`, with what it has.
    """
    x, residual, direction = np.zeros_like(b), b.copy(), b.copy()
    left = np.einsum("mt,mt->m", b, b)
    goal = tolerance**2 * left
    for _ in range(iterations):
        active = left > goal
        if not active.any():
            break
        image = multiply(direction)
        curvature = np.einsum("mt,mt->m", direction, image)
        step = np.divide(left, curvature, out=np.zeros_like(left), where=active)[:, None]
        x += step * direction
        residual -= step * image
        now = np.einsum("mt,mt->m", residual, residual)
        direction *= np.divide(now, left, out=np.zeros_like(left), where=active)[:, None]
        direction += residual
        left = now
    return x


def diffuse(
    s: csr_array, y: NDArray[np.float64], alpha: float = 0.99, tolerance: float = 1e-6, iterations: int = 20
) -> NDArray[np.float64]:
    """(I − αS)⁻¹ y by conjugate gradient; y is (N,) or N×M. Tolerance and iterations as in the published code."""
    check_alpha(alpha)
    b = np.atleast_2d(np.asarray(y, np.float64).T)
    return conjugate_gradient(lambda p: p - alpha * (s @ p.T).T, b, tolerance, iterations).T.reshape(y.shape)


def check_alpha(alpha: float) -> None:
    """Raises RecipeError where diffusion would not converge."""
    if not 0 <= alpha < 1:
        raise RecipeError(f"alpha must lie in [0, 1), not {alpha}")


@dataclass(frozen=True)
class Diffusion:
    """Diffusion over the first images of the ranking, on a graph of these that is made for the query (their §4.3).

    depth: images it is over, None for all. k: neighbours of an image. sources: images that the query's similarity
        enters at. gamma, alpha, tolerance, iterations: of the functions above, with the published values.
    Images that it does not reach keep their order behind those it does.
    """

    depth: int | None = 1000
    k: int = 50
    sources: int = 10
    gamma: float = 3.0
    alpha: float = 0.99
    tolerance: float = 1e-6
    iterations: int = 20

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        check_query(query, database.dimension)
        ids, vectors = head(ranking, database, self.depth)
        scores = self.scores(query, vectors)
        reached = scores > 0
        return first(ranking, *best(ids[reached], scores[reached]))

    def scores(self, query: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """f of N×D vectors for a query, (D,) or Q×D; the paper's whole pipeline."""
        return self.scores_on(self.graph(vectors), query, vectors)

    def graph(self, vectors: NDArray[np.float32]) -> csr_array:
        """S of N×D vectors."""
        return normalised(mutual_graph(vectors, self.k, self.gamma))

    def scores_on(self, s: csr_array, query: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """As ``scores``, on the vectors' ``graph``."""
        y = sources(query, vectors, self.sources, self.gamma)
        return diffuse(s, y, self.alpha, self.tolerance, self.iterations)
