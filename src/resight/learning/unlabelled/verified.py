"""Pairs of photos whose local features agree on a map of the plane: SIFT as the only teacher (survey §5.2).

SIFT-CNN (Lv, Zhou, Tian & Li, IEEE TMM 2018) lets SIFT matching choose what a network learns; the geometry is verified
as a search does it.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from resight.geometry.boxes import crop
from resight.images.read import read_image
from resight.learning.datasets.photos import Photo
from resight.learning.unlabelled.stages import VerifiedStage
from resight.local.features import LocalFeatures
from resight.local.nearest import match_all
from resight.local.rootsift import rootsift
from resight.local.verification import verify
from resight.search.rerank.neighbours import knn

_RATIO, _MAX_ERROR = 0.8, 0.01  # Lowe's; of the longest side
_CONTRAST, _EDGE = 0.02, 10.0


def candidate_pairs(x: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """P×2 places i < j, in order, of photos of which one is among the k nearest of the other; x: N×D."""
    rows, _ = knn(x, k)
    pairs = np.stack([np.repeat(np.arange(len(x)), rows.shape[1]), rows.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def verified_pairs(
    photos: Sequence[Photo],
    pairs: NDArray[np.int64],
    stage: VerifiedStage,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> csr_array:
    """N×N symmetric numbers of inliers, of those of P×2 pairs that verify.

    Features of ``stage.kept`` photos are in memory; of others they are made anew when a pair needs them. progress:
    pairs done, of all. Raises ImageError where a photo cannot be read.
    """
    features = _Features(photos, stage)
    found = []
    for done, (i, j) in enumerate(pairs.tolist(), 1):
        if count := inliers(*features(i), *features(j), seed=seed):
            found.append((i, j, count))
        progress(done, len(pairs))
    counts = np.array([pair for pair in found if pair[2] >= stage.inliers], np.int64).reshape(-1, 3)
    a, b, weights = counts.T
    both = (np.concatenate([weights, weights]), (np.concatenate([a, b]), np.concatenate([b, a])))
    return csr_array(coo_array(both, shape=(len(photos), len(photos))))


def inliers(one: LocalFeatures, side: int, other: LocalFeatures, other_side: int, *, seed: int = 0) -> int:
    """How many matches of two photos agree on one homography; 0 for none. side: the longest of its picture."""
    rows, columns, _ = match_all(_bytes(one), _bytes(other), ratio=_RATIO)
    return len(verify(one, other, rows, columns, max_error=_MAX_ERROR * other_side, seed=seed).inliers)


class _Features:
    """Features of photos and their pictures' longest sides; those used last are kept."""

    def __init__(self, photos: Sequence[Photo], stage: VerifiedStage) -> None:
        self.photos, self.stage = photos, stage
        self._kept: OrderedDict[int, tuple[LocalFeatures, int]] = OrderedDict()

    def __call__(self, place: int) -> tuple[LocalFeatures, int]:
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        photo, stage = self.photos[place], self.stage
        whole = photo.path if photo.box is None else crop(read_image(photo.path), photo.box)[0]
        picture = read_image(whole, max_side=stage.max_side)
        features = rootsift(picture, max_features=stage.features, contrast_threshold=_CONTRAST, edge_threshold=_EDGE)
        self._kept[place] = features, max(picture.size)
        if len(self._kept) > stage.kept:
            self._kept.popitem(last=False)
        return self._kept[place]


def _bytes(features: LocalFeatures) -> NDArray[np.uint8]:
    """RootSIFT's descriptors as they are."""
    return features.descriptors.astype(np.uint8, copy=False)
