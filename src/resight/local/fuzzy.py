"""Fuzzy object matching: hundreds of proposals of an image stood for by a few fuzzy objects (survey §4.1.1).

Yu, Wu, Bhattacharjee & Yuan, "Efficient object instance search using fuzzy objects matching", AAAI 2017. The vectors
P of an image's N proposals are factorised as P ≈ C H, the product of N×T sparse codes, at most z entries a row, and
T×D fuzzy objects. A query q finds the object where a proposal is most like it, max_n pₙᵀq, by T inner products H q and
N·z products, instead of N inner products; n says where in the picture the object is. Refinement averages a fuzzy
object with those nearest to it in the collection.

Here the fuzzy objects are the centroids of spherical k-means, and the codes solve min ‖pₙ − Hᵀcₙ‖ with ‖cₙ‖₀ ≤ z by
orthogonal matching pursuit (Pati, Rezaiifar & Krishnaprasad, 1993).
"""

from dataclasses import dataclass, replace

import faiss
import numpy as np
from numpy.typing import NDArray

from resight.errors import QueryError

_ITERATIONS = 20


@dataclass(frozen=True, eq=False)
class FuzzyObjects:
    """An image's proposals by way of its fuzzy objects.

    objects: T×D float32, ℓ2-normalised. chosen: N×z int32, rows of `objects` by which a proposal is coded, in the
    order they were found. weights: N×z float32 beside them.
    """

    objects: NDArray[np.float32]
    chosen: NDArray[np.int32]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, proposals: NDArray[np.float32], count: int, *, sparsity: int = 3, seed: int = 0) -> "FuzzyObjects":
        """Factorise N×D ℓ2-normalised proposals with T = min(count, N) fuzzy objects and z = min(sparsity, T).

        Raises QueryError where there are no proposals, they are not N×D, or a number is below one.
        """
        if proposals.ndim != 2 or len(proposals) == 0:
            raise QueryError(f"proposals must be N×D with one or more rows, not {proposals.shape}")
        if count < 1 or sparsity < 1:
            raise QueryError(f"count and sparsity must be 1 or more, not {count} and {sparsity}")
        points = np.ascontiguousarray(proposals, np.float32)
        objects = _spherical_kmeans(points, min(count, len(points)), seed)
        return cls(objects, *sparse_codes(points, objects, min(sparsity, len(objects))))

    def scores(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """The similarity of each of Q×D queries to each proposal, C H q: Q×N float32. Their argmax is the place."""
        like: NDArray[np.float32] = np.einsum("qnz,nz->qn", (queries @ self.objects.T)[:, self.chosen], self.weights)
        return like

    def similarity(self, queries: NDArray[np.float32]) -> float:
        """The similarity of the best proposal to a query, averaged over Q×D queries.

        One query is the paper's; another image's fuzzy objects as queries match many to many.
        """
        return float(self.scores(queries).max(axis=1).mean())

    def refined(self, collection: NDArray[np.float32], neighbours: int) -> "FuzzyObjects":
        """With each fuzzy object replaced by the direction of the sum of its nearest among a collection's.

        collection: M×D ℓ2-normalised fuzzy objects of all its images, these among them, so that an object is the
        nearest to itself. neighbours: how many are summed, 1 or more; ties by row. Raises QueryError for other numbers.
        """
        if not 1 <= neighbours <= len(collection):
            raise QueryError(f"neighbours must be from 1 to the collection's {len(collection)}, not {neighbours}")
        nearest = np.argsort(-(self.objects @ collection.T), axis=1, kind="stable")[:, :neighbours]
        return replace(self, objects=_directions(collection[nearest].sum(axis=1)))


def sparse_codes(
    vectors: NDArray[np.float32], objects: NDArray[np.float32], sparsity: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Orthogonal matching pursuit of N×D vectors in T×D unit objects: N×z rows of objects, N×z weights, z ≤ T.

    Each step takes the object that the rest correlates with most, in size, ties by row, and solves for all weights
    anew. Where nothing is left to explain, an object may be taken twice and its weight shared.
    """
    gram = objects.astype(np.float64) @ objects.T
    alike = vectors.astype(np.float64) @ objects.T
    rest = alike
    chosen = np.empty((len(vectors), 0), np.int64)
    weights = np.empty((len(vectors), 0))
    for _ in range(sparsity):
        chosen = np.column_stack([chosen, np.abs(rest).argmax(axis=1)])
        # The pseudo-inverse, since objects can repeat, and so can an object once all others are explained.
        inverse = np.linalg.pinv(gram[chosen[:, :, None], chosen[:, None, :]], hermitian=True)
        weights = np.einsum("nij,nj->ni", inverse, np.take_along_axis(alike, chosen, axis=1))
        rest = alike - np.einsum("ni,nit->nt", weights, gram[chosen])
    return chosen.astype(np.int32), weights.astype(np.float32)


def _spherical_kmeans(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    if count == len(points):
        return points
    clustering = faiss.Kmeans(
        points.shape[1], count, niter=_ITERATIONS, seed=seed, spherical=True, min_points_per_centroid=1
    )
    clustering.train(points)
    return _directions(np.asarray(clustering.centroids, np.float32))


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), np.float32)
