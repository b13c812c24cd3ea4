"""Pairs of photos whose local features agree on a map of the plane, verified as a search does it (survey §5.2).

SIFT is the teacher here of photos that the network has near; ``sift`` is SIFT-CNN, whose teacher ranks all photos.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from resight.errors import RecipeError
from resight.learning.datasets.photos import Photo
from resight.learning.datasets.read import read_photo
from resight.learning.unlabelled.stages import VerifiedStage
from resight.local.features import LocalFeatures
from resight.local.nearest import match_all
from resight.local.rootsift import rootsift
from resight.local.verification import verify
from resight.search.rerank.neighbours import knn
from resight.store.records import pack_features, record_length, unpack_features

_RATIO, _MAX_ERROR = 0.8, 0.01  # Lowe's; of the longest side
_CONTRAST, _EDGE = 0.02, 10.0
_DIMENSION, _STORED = 128, np.dtype(np.uint8)  # of RootSIFT's descriptors


class Compared:
    """Numbers of inliers of pairs that were compared, for minings that follow; 12 bytes a pair."""

    def __init__(self) -> None:
        self._keys, self._inliers = np.empty(0, np.int64), np.empty(0, np.int32)

    def of(self, keys: NDArray[np.int64]) -> NDArray[np.int32]:
        """(P,) of each of P numbers of pairs, −1 where it was not compared."""
        found = np.full(len(keys), -1, np.int32)
        if len(self._keys):
            places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            found = np.where(self._keys[places] == keys, self._inliers[places], found)
        return found

    def add(self, keys: NDArray[np.int64], inliers: NDArray[np.int32]) -> None:
        """Of pairs that were not there."""
        both, counts = np.concatenate([self._keys, keys]), np.concatenate([self._inliers, inliers])
        order = np.argsort(both, kind="stable")
        self._keys, self._inliers = both[order], counts[order]


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
    scratch: Path | None = None,
    compared: Compared | None = None,
) -> csr_array:
    """N×N symmetric numbers of inliers, of those of P×2 pairs that verify.

    Features of each photo are made once and are on disk until all is done, at most 148 bytes each, and as a collection
    has them. scratch: folder for that file; None for the system's temporary one. compared: by the same stage and seed
    before; these are not compared again, and the others are noted there.
    Raises ResightError where a photo cannot be read, RecipeError where the folder has no room.
    """
    compared = compared or Compared()
    keys = pairs @ np.array([len(photos), 1])
    new = compared.of(keys) < 0
    counts = np.empty(int(new.sum()), np.int32)
    with _file(len(photos), stage, scratch) as file:
        features = _Features(photos, stage, file)
        for place, (i, j) in enumerate(pairs[new].tolist()):
            counts[place] = inliers(*features(i), *features(j), seed=seed)
    compared.add(keys[new], counts)
    weights = compared.of(keys)
    kept = weights >= stage.inliers
    (a, b), weights = pairs[kept].T, weights[kept].astype(np.int64)
    both = (np.concatenate([weights, weights]), (np.concatenate([a, b]), np.concatenate([b, a])))
    return csr_array(coo_array(both, shape=(len(photos), len(photos))))


def inliers(one: LocalFeatures, side: int, other: LocalFeatures, other_side: int, *, seed: int = 0) -> int:
    """How many matches of two photos agree on one homography; 0 for none. side: the longest of its picture."""
    rows, columns, _ = match_all(_bytes(one), _bytes(other), ratio=_RATIO)
    return len(verify(one, other, rows, columns, max_error=_MAX_ERROR * other_side, seed=seed).inliers)


def rootsift_of(photo: Photo, *, features: int, max_side: int) -> tuple[LocalFeatures, int]:
    """At most so many features of a photo read at a longest side, and that of its picture; as ``read_photo``."""
    picture = read_photo(photo, max_side)
    found = rootsift(picture, max_features=features, contrast_threshold=_CONTRAST, edge_threshold=_EDGE)
    return found, max(picture.size)


@contextmanager
def _file(photos: int, stage: VerifiedStage, folder: Path | None) -> Iterator[IO[bytes]]:
    """A file without a name, for features of so many photos. RecipeError where the folder has no room."""
    folder = Path(tempfile.gettempdir()) if folder is None else folder
    most = photos * record_length(stage.features, _DIMENSION, _STORED)
    free = shutil.disk_usage(folder).free
    if most > 0.95 * free:
        raise RecipeError(
            f"{folder}: features of {photos:,} photos need up to {most / 1e9:.1f} GB, and there are {free / 1e9:.1f} "
            "GB: ask for fewer of each (unlabelled.features), or make room"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        yield file


class _Features:
    """Features of photos and their pictures' longest sides, made when they are first needed and kept in a file."""

    def __init__(self, photos: Sequence[Photo], stage: VerifiedStage, file: IO[bytes]) -> None:
        self.photos, self.stage = photos, stage
        self._file, self._end = file, 0
        self._at: dict[int, tuple[int, int, int]] = {}  # offset, number of features, longest side

    def __call__(self, place: int) -> tuple[LocalFeatures, int]:
        if place not in self._at:
            stage = self.stage
            made, side = rootsift_of(self.photos[place], features=stage.features, max_side=stage.max_side)
            try:
                self._file.seek(self._end)
                self._at[place] = self._end, len(made), side
                self._end += self._file.write(pack_features(made))
                self._file.flush()
            except OSError as error:
                raise RecipeError(f"features cannot be kept on disk: {error.strerror}; make room") from error
        offset, count, side = self._at[place]
        self._file.seek(offset)
        record = np.frombuffer(self._file.read(record_length(count, _DIMENSION, _STORED)), np.uint8)
        return unpack_features(record, count, _DIMENSION, _STORED), side


def _bytes(features: LocalFeatures) -> NDArray[np.uint8]:
    """RootSIFT's descriptors as they are."""
    return features.descriptors.astype(np.uint8, copy=False)
