"""Which index suits a collection: measured on its own vectors, by the recall and within the memory that are asked for.

Every kind is tried on a part of the collection first, with rising effort until it finds what is asked for. The fastest
that fits is then built over all of it and measured again, and the next where it falls short there.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from resight.errors import CollectionError
from resight.search.filters import stored_vectors
from resight.search.nearest import FEW, Nearest
from resight.store.indexing import Progress
from resight.store.store import Snapshot, Store
from resight.store.vector_index import IndexChoice, VectorIndex
from resight.store.vector_indexing import build_index, check_indexable, dimension, draw_images

_PART = 50_000  # images on which every kind is tried
_DEPTHS = (1, 2, 5, 10, 20)  # candidates for each result
_EFFORTS = tuple(2**n for n in range(11))  # cells visited, or nodes kept in a graph
_SINGLE = 50  # queries asked one at a time
_ROUNDS = 3
_CELLS = 4  # times the root of the images there are
_LEAST_CELLS = 16
_EXACT = IndexChoice("exact")


@dataclass(frozen=True)
class Wanted:
    """recall: of the exact `k` nearest, at least. memory: bytes, at most. build: seconds to build it, at most."""

    recall: float = 0.98
    memory: int | None = None
    build: float = 3600.0
    k: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise ValueError(f"recall must be above 0 and at most 1, not {self.recall}")
        if self.k < 1 or self.build <= 0 or (self.memory is not None and self.memory < 1):
            raise ValueError("k, build and memory must be above 0")

    def refuses(self, trial: "Trial", images: int) -> str:
        """Why what was tried does not do for so many images, in words; "" where it does."""
        if trial.recall < self.recall:
            return f"finds {100 * trial.recall:.1f} %"
        if self.memory is not None and trial.bytes * images > self.memory:
            return f"needs {trial.bytes * images / 2**20:,.0f} MiB"
        if trial.build * images / trial.images > self.build:
            return f"takes about {trial.build * images / trial.images / 60:,.0f} minutes to build"
        return ""


@dataclass(frozen=True)
class Trial:
    """What an index costs and finds.

    choice: of kind "exact" for comparing all. images: over which it was measured.
    recall: the mean share of the exact k nearest that it finds. rate, together: queries a second, one at a time and all
        in one go; comparing candidates exactly is included. bytes: of memory an image. build: seconds.
    refused: why it was not chosen, in words, or "".
    """

    choice: IndexChoice
    images: int
    recall: float
    rate: float
    together: float
    bytes: float
    build: float
    refused: str = ""


@dataclass(frozen=True, eq=False)
class Tuned:
    """trials: all that were measured, on a part of the images first. chosen: one of them. index: None for exact."""

    trials: tuple[Trial, ...]
    chosen: Trial
    index: VectorIndex | None


def kinds(dimension: int, images: int) -> tuple[str, ...]:
    """The kinds that are tried, by the names of faiss's ``index_factory``; in one order for any number of images."""
    parts = max(m for m in range(1, dimension // 4 + 1) if dimension % m == 0) if dimension >= 4 else 1
    cells = max(_LEAST_CELLS, 2 ** round(math.log2(_CELLS * math.sqrt(images))))
    codes = ("SQ8", f"PQ{parts}x4fs", "RaBitQfs")
    return ("SQfp16", *codes, *(f"IVF{cells},{code}" for code in codes), "HNSW32,SQ8")


def tune(
    store: Store,
    wanted: Wanted,
    *,
    only: Sequence[str] = (),
    queries: int = 200,
    seed: int = 0,
    report: Callable[[Progress], None] = lambda _: None,
) -> Tuned:
    """The fastest index of a collection that finds and costs what is asked for, or comparing all where none is better.

    only: kinds whose names begin so; by default all. queries: images of the collection that are asked for, each left
    out of its own results. Raises CollectionError where the recipe does not search by one global descriptor an image,
    where there are so few images that an index is not asked, or where `only` names no kind.
    """
    check_indexable(store)
    length, snapshot = dimension(store), store.snapshot()
    have = snapshot.vectors_at >= 0
    whole = snapshot.take(np.flatnonzero(have))
    if len(whole) <= FEW:
        raise CollectionError(
            f"{store.folder}: has {len(whole):,} images with a descriptor; up to {FEW:,} they are compared one by one, "
            "which takes milliseconds and needs no index"
        )
    part = snapshot.take(draw_images(have, _PART, seed))
    pairs = list(zip(kinds(length, len(part)), kinds(length, len(whole)), strict=True))
    pairs = [(small, large) for small, large in pairs if not only or large.startswith(tuple(only))]
    if not pairs:
        known = ", ".join(kinds(length, len(whole)))
        raise CollectionError(f"no index is named {' or '.join(only)}; there are {known}")
    bench = _Bench(store, part, wanted, queries, seed)
    exact = bench.exact(len(whole))
    trials, good = [exact], []
    for number, (small, large) in enumerate(pairs):
        report(Progress(f"trying {small}", number, len(pairs)))
        index, seconds = bench.build(small)
        trial = bench.best(index, seconds, len(whole))
        trials.append(trial)
        if not trial.refused and _gains(trial, exact):
            good.append((trial, large))
    if good and len(part) < len(whole):
        bench = _Bench(store, whole, wanted, queries, seed)
        exact = bench.exact(len(whole))
        trials.append(exact)
    for trial, kind in sorted(good, key=lambda pair: -pair[0].rate):
        report(Progress(f"building {kind}", 0, None))
        index, seconds = bench.build(kind)
        last = bench.best(index, seconds, len(whole), at_least=trial.choice)
        trials.append(last)
        if not last.refused and _gains(last, exact):
            return Tuned(tuple(trials), last, index.asked(last.choice))
    return Tuned(tuple(trials), exact, None)


def _gains(trial: Trial, exact: Trial) -> bool:
    """Whether an index that does is worth having: comparing all does not fit, or is slower."""
    return bool(exact.refused) or trial.rate > exact.rate


class _Bench:
    """Queries of some images, and what is nearest to them in truth."""

    def __init__(self, store: Store, snapshot: Snapshot, wanted: Wanted, queries: int, seed: int) -> None:
        self._store, self._snapshot, self._wanted, self._seed = store, snapshot, wanted, seed
        self._log, self._length = store.vectors_log(), dimension(store)
        self._asked = draw_images(snapshot.vectors_at >= 0, queries, seed)
        self._queries = stored_vectors(snapshot, self._log, self._asked, self._length)
        self._all = Nearest(snapshot, self._log, self._length, None)
        self._truth = self._without_itself(self._all.exact)

    def exact(self, images: int) -> Trial:
        """Comparing all images, whose descriptors are then all read into memory. images: how many there will be."""
        rate, together = self._rates(self._all.exact)
        trial = Trial(_EXACT, len(self._snapshot), 1.0, rate, together, 4.0 * self._length, 0.0)
        return replace(trial, refused=self._wanted.refuses(trial, images))

    def build(self, kind: str) -> tuple[VectorIndex, float]:
        """An index of these images, and the seconds it took."""
        began = time.perf_counter()
        index = build_index(self._store, self._snapshot, IndexChoice(kind), seed=self._seed)
        return index, time.perf_counter() - began

    def best(self, index: VectorIndex, build: float, images: int, at_least: IndexChoice | None = None) -> Trial:
        """The fastest way to ask an index that finds enough; where none does, the one that finds most.

        images: how many there will be, for what is refused. at_least: no less depth and effort than this.
        """
        least = at_least or IndexChoice(index.choice.kind)
        enough, most = [], None
        size = index.bytes / len(index)  # found by writing it out, so only once
        for depth in (d for d in _DEPTHS if d >= least.depth):
            for choice in self._efforts(index.choice, depth, least.effort):
                recall = self._recall(self._nearest(index.asked(choice)))
                trial = Trial(choice, len(self._snapshot), recall, 0.0, 0.0, size, build)
                if most is None or recall > most.recall:
                    most = trial
                if recall >= self._wanted.recall:
                    enough.append(trial)
                    break
            if enough and enough[-1].choice.effort == least.effort:
                break  # deeper is only slower
        candidates = enough or [trial for trial in [most] if trial is not None]
        timed = [self._timed(trial, index) for trial in candidates]
        fastest = max(timed, key=lambda trial: trial.rate)
        return replace(fastest, refused=self._wanted.refuses(fastest, images))

    def _efforts(self, choice: IndexChoice, depth: int, least: int) -> list[IndexChoice]:
        efforts = [e for e in _EFFORTS if e >= least] if choice.cells or choice.graph else [1]
        most = choice.cells or _EFFORTS[-1]
        return [IndexChoice(choice.kind, depth, effort) for effort in efforts if effort <= most]

    def _nearest(self, index: VectorIndex) -> Nearest:
        return Nearest(self._snapshot, self._log, self._length, index)

    def _timed(self, trial: Trial, index: VectorIndex) -> Trial:
        rate, together = self._rates(self._nearest(index.asked(trial.choice)).search)
        return replace(trial, rate=rate, together=together)

    def _rates(self, search: "_Search") -> tuple[float, float]:
        """Queries a second, one at a time and all together; medians of some rounds."""
        single, k = self._queries[:_SINGLE], self._wanted.k
        alone, together = [], []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            for query in single:
                search(query[None], k)
            middle = time.perf_counter()
            search(self._queries, k)
            alone.append(len(single) / (middle - began))
            together.append(len(self._queries) / (time.perf_counter() - middle))
        return median(alone), median(together)

    def _recall(self, nearest: Nearest) -> float:
        found = self._without_itself(nearest.search)
        shared = [len(np.intersect1d(a, b)) for a, b in zip(found, self._truth, strict=True)]
        return float(np.mean(shared)) / self._wanted.k

    def _without_itself(self, search: "_Search") -> list[NDArray[np.int64]]:
        found, _ = search(self._queries, self._wanted.k + 1)
        return [row[row != own][: self._wanted.k] for row, own in zip(found, self._asked, strict=True)]


_Search = Callable[[NDArray[np.float32], int], tuple[NDArray[np.int64], NDArray[np.float32]]]
