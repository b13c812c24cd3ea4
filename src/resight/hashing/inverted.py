"""Codes in lists by their nearest centroid, of which a search reads a few: quick and not exact (faiss's binary IVF)."""

from math import sqrt

import faiss
import numpy as np

from resight.hashing.search import Codes, Neighbours, check_codes, check_search, nearest

_FEWEST = 39  # codes for each centroid that is learned, as faiss advises


class Inverted:
    """Lists of codes by the nearest of L binary centroids, learned by k-means on the codes as ±1 and rounded.

    A search compares with the codes of the `probes` lists whose centroids are nearest: those elsewhere are missed. With
    as many probes as lists it is exact. codes: N×B/8 uint8, of which faiss keeps a copy. lists: L; by default 4√N, or
    fewer where they would have less than 39 codes each. seed: of k-means.
    """

    def __init__(self, codes: Codes, lists: int | None = None, *, probes: int = 8, seed: int) -> None:
        check_codes(codes)
        if lists is None:
            lists = max(1, min(round(4 * sqrt(len(codes))), len(codes) // _FEWEST))
        if not 1 <= lists <= len(codes):
            raise ValueError(f"lists must be at least 1 and at most the {len(codes)} codes, not {lists}")
        if probes < 1:
            raise ValueError(f"probes must be at least 1, not {probes}")
        self._codes = codes
        bits = 8 * codes.shape[1]
        self._quantizer = faiss.IndexBinaryFlat(bits)  # which the index points to and does not own
        self._index = faiss.IndexBinaryIVF(self._quantizer, bits, lists)
        self._index.cp.seed = seed
        self._index.cp.min_points_per_centroid = 1  # below 39 it would say so on standard error
        self._index.nprobe = min(probes, lists)
        self._index.train(codes)
        self._index.add(codes)

    def search(self, codes: Codes, k: int) -> Neighbours:
        """As ``resight.hashing.search.CodeIndex.search``, among the lists that are read.

        Where these hold fewer than k codes, the rest has row -1 and distance B + 1.
        """
        asked, k = check_search(codes, self._codes, k)
        further = 8 * self._codes.shape[1] + 1
        distances = np.full((len(asked), k), further, np.int32)
        rows = np.full((len(asked), k), -1, np.int64)
        if k == 0 or not len(asked):
            return distances, rows
        # Of codes at the k-th distance it keeps those in the lists read first: all of them are asked for again.
        heap, known = self._index.search(asked, k)
        last = np.where(known[:, -1] >= 0, heap[:, -1], further - 1)
        for radius in np.unique(last).tolist():
            places = np.flatnonzero(last == radius)
            ends, found, which = self._index.range_search(asked[places], radius + 1)
            for place, start, stop in zip(places.tolist(), ends[:-1], ends[1:], strict=True):
                near, at = nearest(found[start:stop], which[start:stop], k)
                distances[place, : len(at)], rows[place, : len(at)] = near, at
        return distances, rows
