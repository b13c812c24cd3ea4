"""Pseudo-labels: clusters of descriptors that are learned as classes until they are made anew (survey §5.2.2)."""

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from resight.errors import RecipeError

Labels = NDArray[np.int64]
_BLOCK = 1024  # photos compared with all others at a time
_DISTANCES = 1 << 24  # of a block, at most
_NEIGHBOURS = 200  # of a photo on average, at most: 1 GB for 100,000 photos
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
    classifier anew instead. labels, before: (N,) in [0, clusters), −1 for none. Takes clusters² numbers.
    """
    both = (labels >= 0) & (before >= 0)
    shared = np.zeros((clusters, clusters), np.int64)
    np.add.at(shared, (labels[both], before[both]), 1)
    number = np.empty(clusters, np.int64)
    old, new = linear_sum_assignment(shared, maximize=True)
    number[old] = new
    return np.where(labels >= 0, number[labels], -1)


def dbscan_labels(x: NDArray[np.float32], distance: float, least: int) -> Labels:
    """(N,) the dense region of each of N×D descriptors, −1 for none (Ester, Kriegel, Sander & Xu, KDD 1996).

    A core has ``least`` photos within the distance, itself among them; cores within it of each other are of one region,
    and a photo that is near cores but none itself is of the region of the nearest. Regions are numbered by their first
    core. Pairs within the distance are in memory.
    Raises RecipeError where there are fewer than two regions, or more than 200 photos within the distance of each.
    """
    n, points = len(x), np.ascontiguousarray(x, np.float32)
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    rows, columns, squares = [], [], []
    together, pairs = max(1, min(_BLOCK, _DISTANCES // n)), 0
    for start in range(0, n, together):
        limits, near, found = index.range_search(points[start : start + together], distance**2)
        ends = np.asarray(limits, np.int64)
        pairs += len(found)
        if pairs > _NEIGHBOURS * n:
            raise RecipeError(
                f"{n} photos have more than {_NEIGHBOURS} each within {distance:g}: choose a smaller distance "
                "(unlabelled.distance)"
            )
        rows.append(start + np.repeat(np.arange(len(ends) - 1), ends[1:] - ends[:-1]))
        squares.append(near)
        columns.append(found)
    a, b, d = np.concatenate(rows), np.concatenate(columns), np.concatenate(squares)
    core = np.bincount(a, minlength=n) >= least
    inner = core[a] & core[b]
    links = coo_array((np.ones(int(inner.sum())), (a[inner], b[inner])), shape=(n, n))
    parts = connected_components(links, directed=False)[1]
    labels = np.full(n, -1, np.int64)
    cores = np.flatnonzero(core)
    names, places = np.unique(parts[cores], return_index=True)
    number = dict(zip(names[np.argsort(places)].tolist(), range(len(names)), strict=True))
    labels[cores] = [number[part] for part in parts[cores].tolist()]
    border = ~core[a] & core[b]
    order = np.lexsort((b[border], d[border], a[border]))
    own, nearest = a[border][order], b[border][order]
    who, where = np.unique(own, return_index=True)
    labels[who] = labels[nearest[where]]
    if len(names) < 2:
        raise RecipeError(
            f"there are {len(names)} dense regions of {n} photos, and {int((labels >= 0).sum())} photos lie in any: "
            f"choose another unlabelled.distance than {distance:g}, or fewer photos that make a core (unlabelled.least)"
        )
    return labels
