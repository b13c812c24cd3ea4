"""Codebooks of visual words: two-level k-means, with exact-within-probes assignment (survey §4.2.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.errors import RecipeError
from resight.fitted import PhotoSketch

KIND = "codebook"
_DESCRIPTORS_PER_WORD = 16
_MAX_WORDS = 65_536
_ITERATIONS = 8
_TRAINING_A_CENTROID = 256  # more changes the centroids of k-means little
_BLOCK = 65_536  # descriptors converted to float32 at a time
_PRODUCT = 1 << 20  # distances computed at a time: 4 MiB


def choose_words(descriptors: int) -> int:
    """Codebook size for a number of training descriptors: the power of two that leaves at least 16 a word.

    The published ASMK codebook has 65,536 words (PROTOCOLS.md), which is also the most chosen here.
    """
    words = 1
    while words * 2 * _DESCRIPTORS_PER_WORD <= descriptors and words < _MAX_WORDS:
        words *= 2
    return words


@dataclass(frozen=True, eq=False)
class Codebook:
    """W visual words in two levels, as in the vocabulary tree of Nistér & Stewénius (CVPR 2006).

    coarse: C×D float32, centroids of the first level.
    words: W×D float32, centroids of the second level.
    fitted_on: what it was learned from, in words. photos: which these were, where that is known.

    A descriptor is assigned to its nearest words among those that lie in the `probes` nearest coarse cells.
    """

    coarse: NDArray[np.float32]
    words: NDArray[np.float32]
    fitted_on: str
    probes: int = 8
    photos: PhotoSketch | None = None

    @cached_property
    def _cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Words by coarse cell; where each cell's begin; their centroids c as [−c, |c|²/2], W×(D+1)."""
        cell = _nearest(self.words, self.coarse, 1)[:, 0]
        first = np.cumsum([0, *np.bincount(cell, minlength=len(self.coarse))])
        members = np.argsort(cell, kind="stable")
        centroids = self.words[members]
        halves = np.einsum("wd,wd->w", centroids, centroids) / 2
        return members, first, np.column_stack([-centroids, halves])

    def __len__(self) -> int:
        return len(self.words)

    @property
    def dimension(self) -> int:
        """D, the dimension of the descriptors it takes."""
        return int(self.words.shape[1])

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind and the centroids, in hex; ``fitted_on`` and the like do not enter."""
        return artefact_fingerprint(KIND, {"coarse": self.coarse, "words": self.words})

    @classmethod
    def fit(
        cls,
        descriptors: NDArray[np.uint8 | np.int8 | np.float32],
        words: int,
        *,
        seed: int,
        fitted_on: str,
        cells: int | None = None,
    ) -> Self:
        """Learn `words` visual words from N×D descriptors.

        cells: of the first level, by default about √words; each is split into a share of the words in proportion to
            its descriptors. One cell is plain k-means, and assignment is then exhaustive: for few words.
        Beside the descriptors, which may be memory-mapped, memory is for 256 of them a cell or a word of one cell.
        Raises ValueError for fewer descriptors than words, or fewer words than cells.
        """
        n = len(descriptors)
        if not 1 <= words <= n:
            raise ValueError(f"cannot learn {words} visual words from {n} descriptors: give more images")
        cells = max(1, round(words**0.5)) if cells is None else cells
        if not 1 <= cells <= words:
            raise ValueError(f"cells must be between 1 and the {words} words, not {cells}")
        drawn = np.random.default_rng(seed).permutation(n)[: cells * _TRAINING_A_CENTROID]
        coarse = _kmeans(descriptors[np.sort(drawn)], cells, seed)
        cell = _nearest(descriptors, coarse, 1)[:, 0]
        parts = np.split(np.argsort(cell, kind="stable"), np.cumsum(np.bincount(cell, minlength=cells))[:-1])
        shares = _apportion(np.array([len(part) for part in parts]), words)
        leaves = [
            _kmeans(descriptors[part], int(share), seed) for part, share in zip(parts, shares, strict=True) if share
        ]
        return cls(coarse, np.concatenate(leaves), fitted_on)

    def assign(self, descriptors: NDArray[np.float32], k: int = 1) -> NDArray[np.int64]:
        """The k nearest words of each of N descriptors, nearest first: N×k int64, −1 where the probes held fewer."""
        blocks = [self._assign(descriptors[start : start + _BLOCK], k) for start in range(0, len(descriptors), _BLOCK)]
        return np.concatenate([np.empty((0, k), np.int64), *blocks])

    def _assign(self, descriptors: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        n = len(descriptors)
        members, first, centroids = self._cells
        if len(self.coarse) == 1:  # every descriptor looks into the one cell: nothing to bring together
            step = max(1, _PRODUCT // len(self.words))
            parts = [_closest(descriptors[start : start + step], centroids, k)[0] for start in range(0, n, step)]
            return np.concatenate([np.empty((0, k), np.int64), *parts])
        probed = _nearest(descriptors, self.coarse, min(self.probes, len(self.coarse)))
        # The descriptors that look into a cell are compared with its words in matrix products that fit the cache.
        by_cell = np.argsort(probed, axis=None, kind="stable")
        ends = np.cumsum(np.bincount(probed.ravel(), minlength=len(self.coarse)))
        distance = np.full((probed.size, k), np.inf, np.float32)
        found = np.full((probed.size, k), -1, np.int64)
        for cell, lookers in enumerate(np.split(by_cell, ends[:-1])):
            own = slice(first[cell], first[cell + 1])
            words = members[own]
            if len(words) == 0:
                continue
            step = max(1, _PRODUCT // len(words))
            for looks in (lookers[start : start + step] for start in range(0, len(lookers), step)):
                best, distance[looks] = _closest(descriptors[looks // probed.shape[1]], centroids[own], k)
                found[looks] = np.where(best >= 0, words[best], -1)
        nearest = np.argsort(distance.reshape(n, -1), axis=1, kind="stable")[:, :k]
        return np.take_along_axis(found.reshape(n, -1), nearest, axis=1)

    def save(self, path: Path) -> None:
        """Write the codebook as one safetensors file."""
        photos = {"photos": self.photos.to_json()} if self.photos else {}
        meta = {"fitted_on": self.fitted_on, "probes": self.probes, **photos}
        save_artefact(path, KIND, {"coarse": self.coarse, "words": self.words}, meta)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a codebook; RecipeError if the file is missing, damaged or of another kind."""
        tensors, meta = load_artefact(path, KIND)
        try:
            photos = PhotoSketch.from_json(meta["photos"]) if "photos" in meta else None
            return cls(tensors["coarse"], tensors["words"], str(meta["fitted_on"]), int(meta["probes"]), photos)
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not a codebook that this version can use: {error}") from error


def _closest(
    x: NDArray[np.float32], centroids: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest of W centroids, [−c, |c|²/2], to each of n descriptors, nearest first, n×k: −1 beyond W.

    And half their squared distances, less the descriptor's own share, which does not change the order; infinite there.
    """
    gap = x @ centroids[:, :-1].T
    gap += centroids[:, -1]
    if k == 1:
        best = gap.argmin(axis=1)[:, np.newaxis]
        return best, np.take_along_axis(gap, best, axis=1)
    found, distance = np.full((len(x), k), -1, np.int64), np.full((len(x), k), np.inf, np.float32)
    rows = np.arange(len(x))
    for place in range(min(k, len(centroids))):  # several passes for the least are quicker than a partition
        best = gap.argmin(axis=1)
        found[:, place], distance[:, place] = best, gap[rows, best]
        gap[rows, best] = np.inf
    return found, distance


def _kmeans(x: NDArray[np.uint8 | np.int8 | np.float32], k: int, seed: int) -> NDArray[np.float32]:
    points = np.ascontiguousarray(x, np.float32)
    if k == 1:
        return np.asarray(points.mean(axis=0, keepdims=True, dtype=np.float64), np.float32)
    if k >= len(points):
        return points
    clustering = faiss.Kmeans(
        points.shape[1],
        k,
        niter=_ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAINING_A_CENTROID,
    )
    clustering.train(points)
    return np.asarray(clustering.centroids, np.float32)


def _nearest(x: NDArray[np.uint8 | np.int8 | np.float32], centroids: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k nearest centroids of each row, nearest first; N×k."""
    flat = faiss.IndexFlatL2(centroids.shape[1])
    flat.add(centroids)
    blocks = [
        flat.search(np.ascontiguousarray(x[start : start + _BLOCK], np.float32), k)[1]
        for start in range(0, len(x), _BLOCK)
    ]
    return np.concatenate(blocks)


def _apportion(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Split `total` seats by largest remainder, none above its count; sums to min(total, counts.sum())."""
    quota = counts * (total / counts.sum())
    seats: NDArray[np.int64] = np.minimum(np.floor(quota).astype(np.int64), counts)
    while (left := total - int(seats.sum())) > 0:
        remainder = np.where(seats < counts, quota - seats, -np.inf)
        best = np.argsort(-remainder, kind="stable")[: min(left, int(np.count_nonzero(seats < counts)))]
        if len(best) == 0:
            break
        seats[best] += 1
    return seats


def codebook_tensors(codebook: Codebook) -> dict[str, NDArray[np.generic]]:
    """All of a codebook that decides its assignments, for the artefact of an embedding that holds it."""
    return {"coarse": codebook.coarse, "words": codebook.words, "probes": np.array(codebook.probes)}


def codebook_of(tensors: Mapping[str, NDArray[Any]], fitted_on: str) -> Codebook:
    """The inverse of ``codebook_tensors``; KeyError where one is missing."""
    return Codebook(tensors["coarse"], tensors["words"], fitted_on, int(tensors["probes"]))
