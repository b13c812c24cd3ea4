"""Regularised diffusion process, RDP (Bai et al., AAAI 2017; TPAMI 2019): diffusion of pairs rather than of images.

A ← αSASᵀ + (1 − α)E, whose limit is vec(A) = (1 − α)(I − αS⊗S)⁻¹ vec(E): a pair gains by the pairs of its members'
neighbours. For symmetric S and E = I the limit is (1 − α)(I − αS²)⁻¹, so that one query needs one sparse system.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array

from resight.errors import QueryError
from resight.search.ranking import Ranking
from resight.search.rerank.diffusion import check_alpha, conjugate_gradient, normalised
from resight.search.rerank.neighbours import mutual_graph
from resight.search.rerank.reranker import Database, best, check_query, first, head

_ALPHA = 1 / 1.18  # 1/(1 + μ) with the μ = 0.18 of the paper


def regularised_diffusion(
    s: csr_array | NDArray[np.float64],
    e: NDArray[np.float64] | None = None,
    alpha: float = _ALPHA,
    tolerance: float = 1e-8,
) -> NDArray[np.float64]:
    """The limit A of all pairs, N×N, by iteration; for some thousands of nodes.

    s: N×N transitions of spectral norm 1 at most, symmetric or not. e: N×N, I by default.
    tolerance: of the last step, relative to A (Frobenius norms).
    Raises QueryError where the iteration diverges, as it does for larger s.
    """
    check_alpha(alpha)
    fixed: NDArray[np.float64] = (1 - alpha) * (np.eye(s.shape[0]) if e is None else e)
    pairs = fixed
    steps = 2 + (math.ceil(math.log(tolerance) / math.log(alpha)) if alpha > 0 else 0)
    for _ in range(steps):  # each step is at most alpha times the one before
        before, pairs = pairs, alpha * np.asarray(s @ (s @ pairs.T).T) + fixed
        if np.linalg.norm(pairs - before) <= tolerance * np.linalg.norm(pairs):
            return pairs
    raise QueryError("s is no transition matrix of spectral norm 1 or less; make it with `normalised`")


def regularised_diffusion_of(
    s: csr_array, node: int, alpha: float = _ALPHA, tolerance: float = 1e-6, iterations: int = 100
) -> NDArray[np.float64]:
    """One node's row of the limit with E = I, (N,), for symmetric s, by conjugate gradient on (I − αS²)."""
    check_alpha(alpha)
    b = np.zeros((1, s.shape[0]))
    b[0, node] = 1 - alpha
    (row,) = conjugate_gradient(lambda p: p - alpha * (s @ (s @ p.T)).T, b, tolerance, iterations)
    return np.asarray(row)


@dataclass(frozen=True)
class RegularisedDiffusion:
    """RDP over the query and the first `depth` images (None for all), on a graph of these made for the query.

    The graph is of reciprocal neighbours, affinities max(s, 0)^γ, with a loop of 1 at each node: without loops a pair
    of neighbours that have no other would gain nothing, since both members always step together.
    Images that are not reached keep their order behind those that are.
    """

    depth: int | None = 1000
    k: int = 50
    gamma: float = 3.0
    alpha: float = _ALPHA

    def rerank(self, query: NDArray[np.float32], ranking: Ranking, database: Database) -> Ranking:
        check_query(query, database.dimension)
        ids, vectors = head(ranking, database, self.depth)
        edges = mutual_graph(np.concatenate([query[None], vectors]), self.k, self.gamma)
        s = normalised(csr_array(edges + eye_array(len(ids) + 1)))
        scores = regularised_diffusion_of(s, 0, self.alpha)[1:]
        reached = scores > 0
        return first(ranking, *best(ids[reached], scores[reached]))
