"""Pseudo-labels: clusters of descriptors that are learned as classes until they are made anew (survey §5.2.2)."""

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_array, coo_array, csr_array, eye_array, vstack
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from resight.errors import RecipeError
from resight.search.rerank.neighbours import nearest, without

Labels = NDArray[np.int64]
_BLOCK = 1024  # photos compared with all others at a time
_PART = 1 << 14  # photos that they are compared with at a time, where what is near is found: 0.2 GB of distances
_NEIGHBOURS = 200  # of a photo on average, at most: 1.1 GB for 100,000 photos
_SAMPLE = 1000  # photos whose nearest ones say what is near
_COPIES = 1e-3  # a distance below which photos are copies
_POINTS = 256  # that k-means learns each centroid from, at most


def check_clusters(clusters: int, photos: int) -> None:
    """Raises RecipeError for more clusters than half of the photos, which would leave most of them alone."""
    if 2 * clusters > photos:
        raise RecipeError(
            f"{clusters} clusters of {photos} photos would have fewer than two each: ask for fewer "
            "(unlabelled.clusters), or give more photos"
        )


def kmeans_labels(x: NDArray[np.float32], clusters: int, *, iterations: int = 20, seed: int = 0) -> Labels:
    """(N,) the nearest of the centroids of N×D descriptors (Caron et al., ECCV 2018, §3.2).

    Each centroid is learned from 256 photos or so, drawn by the seed. Raises RecipeError as ``check_clusters``.
    """
    check_clusters(clusters, len(x))
    points = np.ascontiguousarray(x, np.float32)
    learned = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS,
    )
    learned.train(points)
    return np.concatenate(
        [learned.assign(points[start : start + _BLOCK])[1].ravel() for start in range(0, len(points), _BLOCK)]
    ).astype(np.int64)


def matched(labels: Labels, before: Labels, clusters: int) -> Labels:
    """The same clusters, numbered so that as many photos as can be keep the number they had (Kuhn 1955).

    So a classifier, or a memory of descriptors, remains right when clusters are made anew; Caron et al. begin the
    classifier anew instead. labels, before: (N,) in [0, clusters), −1 for none. Memory grows with N, not clusters².
    """
    both = (labels >= 0) & (before >= 0)
    shared = coo_array((np.ones(int(both.sum())), (labels[both], before[both])), shape=(clusters, clusters)).tocsr()
    new, old = _assigned(shared)
    number = np.full(clusters, -1, np.int64)
    number[new] = old
    number[number < 0] = np.setdiff1d(np.arange(clusters), old)
    return np.where(labels >= 0, number[labels], -1)


def _assigned(gain: csr_array) -> tuple[Labels, Labels]:
    """Rows and the columns they get, each one once at most, of the largest gain together; n×n, of gains above 0.

    A matching that need not be full, by one that is full: each row has an own column to go to for nothing, and each
    column an own row. All gains are one larger, as scipy's edges of weight 0 are none.
    """
    n = gain.shape[0]
    edges = gain.copy()
    edges.data = np.ones_like(edges.data)
    nothing = eye_array(n, format="csr")
    whole = block_array([[gain + edges, nothing], [nothing, edges.T]], format="csr")
    rows, columns = min_weight_full_bipartite_matching(whole, maximize=True)
    kept = (rows < n) & (columns < n)
    return rows[kept].astype(np.int64), columns[kept].astype(np.int64)


def _among(edges: csr_array, kept: NDArray[np.bool_]) -> csr_array:
    """Edges, with weight 1, of an N×N graph whose both ends are kept, which is said of each node."""
    inner = kept[edges.indices] & np.repeat(kept, np.diff(edges.indptr))
    starts = np.concatenate([[0], np.cumsum(inner)])[edges.indptr].astype(np.int32)
    return csr_array((np.ones(starts[-1], np.int8), edges.indices[inner], starts), shape=edges.shape)


def usual_distance(x: NDArray[np.float32]) -> float:
    """The median Euclidean distance of N×D ℓ2-normalised descriptors to their nearest one.

    Of at most 1000 of them, evenly spaced. More than 0, so that copies of a photo are near each other in any case.
    """
    own = np.unique(np.linspace(0, len(x) - 1, min(len(x), _SAMPLE)).astype(np.int64))
    rows, similarity = nearest(x[own], x, 2)
    others = without(rows, own)
    return max(float(np.median(np.sqrt(np.maximum(2 - 2 * similarity[others], 0)))), _COPIES)


def _within(points: NDArray[np.float32], distance: float) -> csr_array:
    """N×N squared distances of each of N×D points to those within the distance, itself among them.

    A block of points is searched in a part of them all at a time, so that no more than a part's distances are in memory
    before it is known whether there are too many. Raises RecipeError as ``dbscan_labels``.
    """
    n = len(points)
    parts = []
    for start in range(0, n, _PART):
        parts.append((start, faiss.IndexFlatL2(points.shape[1])))
        parts[-1][1].add(points[start : start + _PART])
    blocks, pairs = [], 0
    for start in range(0, n, _BLOCK):
        block = points[start : start + _BLOCK]
        rows, columns, squares = [], [], []
        for first, part in parts:
            limits, apart, found = part.range_search(block, distance**2)
            pairs += len(found)
            if pairs > _NEIGHBOURS * n:
                raise RecipeError(
                    f"{n} photos have more than {_NEIGHBOURS} each within {distance:g}: choose a smaller distance "
                    "(unlabelled.distance)"
                )
            ends = np.asarray(limits, np.int64)
            rows.append(np.repeat(np.arange(len(block), dtype=np.int32), ends[1:] - ends[:-1]))
            columns.append((found + first).astype(np.int32))
            squares.append(apart)
        places = (np.concatenate(rows), np.concatenate(columns))
        blocks.append(coo_array((np.concatenate(squares), places), shape=(len(block), n)).tocsr())
    return vstack(blocks, format="csr")


def dbscan_labels(x: NDArray[np.float32], distance: float, least: int) -> Labels:
    """(N,) the dense region of each of N×D descriptors, −1 for none (Ester, Kriegel, Sander & Xu, KDD 1996).

    A core has ``least`` photos within the distance, itself among them; cores within it of each other are of one region,
    and a photo that is near cores but none itself is of the region of the nearest. Regions are numbered by their first
    core. Pairs within the distance are in memory.
    Raises RecipeError where there are fewer than two regions, or more than 200 photos within the distance of each.
    """
    near = _within(np.ascontiguousarray(x, np.float32), distance)
    n, starts = len(x), near.indptr
    core = np.diff(starts) >= least
    parts = connected_components(_among(near, core), directed=False)[1]
    labels = np.full(n, -1, np.int64)
    cores = np.flatnonzero(core)
    names, places = np.unique(parts[cores], return_index=True)
    number = dict(zip(names[np.argsort(places)].tolist(), range(len(names)), strict=True))
    labels[cores] = [number[part] for part in parts[cores].tolist()]
    for photo in np.flatnonzero(~core).tolist():
        own = slice(starts[photo], starts[photo + 1])
        able = core[near.indices[own]]
        if able.any():
            closest = np.lexsort((near.indices[own][able], near.data[own][able]))[0]
            labels[photo] = labels[near.indices[own][able][closest]]
    if len(names) < 2:
        raise RecipeError(
            f"there are {len(names)} dense regions of {n} photos, and {int((labels >= 0).sum())} photos lie in any: "
            f"choose another unlabelled.distance than {distance:g}, or fewer photos that make a core (unlabelled.least)"
        )
    return labels
