"""The plain way: every query against every image by exact nearest neighbours, ratio test and homography.

Lowe, IJCV 2004. The features are those that resight's default recipe extracts, so that only the search differs.
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.describe.describer import Describer
from resight.errors import ImageError
from resight.geometry.boxes import Box
from resight.recipes import Recipe, load_recipe

RATIO = 0.8  # Lowe's
MAX_ERROR = 0.01  # inlier threshold, as a fraction of the database image's longest side

Features = tuple[NDArray[np.float32], NDArray[np.uint8], tuple[int, int]]  # N×2 xy, N×128 RootSIFT, (width, height)


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of M images in one memory map. start: (M+1,) rows; sizes: M×2, (0, 0) for an unreadable image."""

    xy: NDArray[np.float32]
    descriptors: NDArray[np.uint8]
    start: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def make(cls, paths: Sequence[Path], folder: Path, workers: int) -> Self:
        """Read from `folder`, or extract in worker processes and keep there."""
        if not (folder / "sizes.npy").is_file():
            with pool(workers) as processes:
                found = list(processes.map(_extract, paths, [None] * len(paths), chunksize=4))
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / "xy.npy", np.concatenate([xy for xy, _, _ in found]))
            np.save(folder / "descriptors.npy", np.concatenate([d for _, d, _ in found]))
            np.save(folder / "start.npy", np.cumsum([0, *(len(xy) for xy, _, _ in found)]))
            np.save(folder / "sizes.npy", np.array([size for _, _, size in found]))  # last: the others are whole
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The table kept in a folder."""
        names = ("xy", "descriptors", "start", "sizes")
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, image: int) -> Features:
        rows = slice(int(self.start[image]), int(self.start[image + 1]))
        width, height = self.sizes[image].tolist()
        return self.xy[rows], self.descriptors[rows], (width, height)


@dataclass(frozen=True, eq=False)
class Answer:
    """One query against all images. inliers: (M,) int64. seconds: matching and verification on one core."""

    inliers: NDArray[np.int64]
    comparisons: int
    match_seconds: float
    verify_seconds: float


def match(
    query: NDArray[np.uint8], image: NDArray[np.uint8], *, mutual: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of Q×D and N×D descriptors that pass the ratio test; with `mutual` also each other's nearest."""
    none = np.empty(0, np.int64)
    if len(query) == 0 or len(image) < 2:
        return none, none
    a, b = query.astype(np.float32), image.astype(np.float32)
    half = 0.5 * np.einsum("nd,nd->n", b, b) - a @ b.T  # half the squared distance, less the query's own norm
    rows = np.arange(len(a))
    nearest = half.argmin(axis=1)
    back = (half + 0.5 * np.einsum("nd,nd->n", a, a)[:, None]).argmin(axis=0) if mutual else None
    first = half[rows, nearest]
    half[rows, nearest] = np.inf
    second = half.min(axis=1)
    norm = np.einsum("nd,nd->n", a, a)
    kept = norm + 2 * first < RATIO**2 * (norm + 2 * second)
    if back is not None:
        kept &= back[nearest] == rows
    return rows[kept], nearest[kept]


def count_inliers(query_xy: NDArray[np.float32], image_xy: NDArray[np.float32], size: tuple[int, int]) -> int:
    """Inliers of the homography that cv2's USAC_MAGSAC finds; 0 below its four correspondences."""
    if len(query_xy) < 4:
        return 0
    _, mask = cv2.findHomography(query_xy, image_xy, cv2.USAC_MAGSAC, MAX_ERROR * max(size))
    return 0 if mask is None else int(np.count_nonzero(mask))


def answer(query: Features, table: FeatureTable, *, mutual: bool = False) -> Answer:
    """The plain way's answer to one query."""
    xy, descriptors, _ = query
    inliers = np.zeros(len(table), np.int64)
    matching = verifying = 0.0
    comparisons = 0
    for image in range(len(table)):
        began = time.perf_counter()
        image_xy, image_descriptors, size = table[image]
        i, j = match(descriptors, image_descriptors, mutual=mutual)
        matched = time.perf_counter()
        inliers[image] = count_inliers(xy[i], image_xy[j], size)
        matching += matched - began
        verifying += time.perf_counter() - matched
        comparisons += len(descriptors) * len(image_descriptors)
    return Answer(inliers, comparisons, matching, verifying)


def answers(
    queries: Sequence[tuple[Path, Box | None]], folder: Path, *, workers: int, mutual: bool
) -> Iterator[Answer]:
    """Answers in order, against the table kept in `folder`; each query on one core."""
    count = len(queries)
    with pool(workers) as processes:
        paths, boxes = zip(*queries, strict=True)
        yield from processes.map(_ask, paths, boxes, [folder] * count, [mutual] * count)


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes of one thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))  # read by numpy's BLAS when a child first imports it
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as processes:
            yield processes
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _recipe() -> Recipe:
    return load_recipe("rootsift-asmk")


def _extract(path: Path, box: Box | None) -> Features:
    try:
        description = Describer(_recipe()).describe(path, box)
    except ImageError:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8), (0, 0)
    if description.local is None:
        raise ValueError("the default recipe has no local features")
    return description.local.xy, np.asarray(description.local.descriptors, np.uint8), description.size


def _ask(path: Path, box: Box | None, folder: Path, mutual: bool) -> Answer:
    return answer(_extract(path, box), FeatureTable.open(folder), mutual=mutual)
