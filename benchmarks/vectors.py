"""Search among many global descriptors: what each index finds, costs and gains, beside faiss called bare.

Descriptors are made from real ones (--real, what `resight export` writes): each is a real one moved by a part of the
difference between two others of its 50 nearest, so that it varies as real ones do, and normalised. Which real one is
drawn has the chances of Zipf's law, as some things are photographed far more often than others.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import faiss
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from common import header, table, write_json
from process import watched
from resight.hashing.codes import pack
from resight.hashing.search import Scan
from resight.projection.moments import gather
from resight.projection.pca import pca
from resight.search import nearest
from resight.search.index_tuning import kinds
from resight.search.nearest import Nearest
from resight.store.log import LogReader
from resight.store.store import Snapshot
from resight.store.vector_index import IndexChoice, VectorIndex

_BLOCK = 50_000  # descriptors made at a time
_NEIGHBOURS = 50
_ROUNDS = 5
_SINGLE = 200  # queries asked one at a time, at most
_SPENT = 2.0  # seconds that a go may take; its number of queries follows
_FEWEST = 20


@dataclass(frozen=True)
class Result:
    """One way to search. recall: of the exact 10 nearest. single: ms a query, asked one at a time, one thread.

    one, two: queries a second, all in one go, with so many threads. bare: the same index, depth and effort, of faiss
    alone, with its own refinement by vectors in memory. bytes: of memory a vector.
    """

    images: int
    kind: str
    depth: int
    effort: int
    recall: float
    single: float
    one: float
    two: float
    bare_recall: float
    bare_one: float
    bare_two: float
    bytes: float
    build: float

    @property
    def family(self) -> str:
        """The kind without the number of its cells."""
        return re.sub(r"IVF\d+", "IVF", self.kind)


class Made:
    """Descriptors drawn from real ones; block by block, each by its own seed, so that any number is never held."""

    def __init__(self, real: NDArray[np.float32], seed: int) -> None:
        self.real, self.seed = real, seed
        self.near = faiss.knn(real, real, _NEIGHBOURS + 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 1:]
        chances = 1 / (10 + np.random.default_rng(seed).permutation(len(real)))
        self.chances = chances / chances.sum()

    def block(self, number: int, count: int) -> NDArray[np.float32]:
        """The first `count` descriptors of a block."""
        rng = np.random.default_rng([self.seed, number])
        centre = rng.choice(len(self.real), _BLOCK, p=self.chances)[:count]
        one = rng.integers(0, _NEIGHBOURS, _BLOCK)[:count]
        other = (one + rng.integers(1, _NEIGHBOURS, _BLOCK)[:count]) % _NEIGHBOURS  # never the same, so no duplicates
        first, second = self.near[centre, one], self.near[centre, other]
        share = rng.uniform(0.3, 1.0, (_BLOCK, 1))[:count].astype(np.float32)
        x = self.real[centre] + share * (self.real[first] - self.real[second])
        return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)

    def blocks(self, count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids from 1 and descriptors."""
        for number, start in enumerate(range(0, count, _BLOCK)):
            x = self.block(number, min(_BLOCK, count - start))
            yield np.arange(start + 1, start + 1 + len(x)), x

    def queries(self, count: int) -> NDArray[np.float32]:
        """Of a block that no collection has."""
        return self.block(1 << 30, count)


def read_real(path: Path, dimension: int) -> NDArray[np.float32]:
    """The vectors of an export, reduced by PCA to `dimension` where they have more."""
    with np.load(path, allow_pickle=False) as file:
        x = file["vectors"].astype(np.float32)
    x = x[np.linalg.norm(x, axis=1) > 0]
    if x.shape[1] > dimension:
        x = pca(gather([x], dimension), dimension, fitted_on=path.name, descriptor="").transform(x)
    return np.ascontiguousarray(x)


def written(made: Made, count: int, path: Path) -> None:
    """The descriptors as a collection's log."""
    with path.open("wb") as file:
        for _, x in made.blocks(count):
            file.write(x.tobytes())


def snapshot(count: int, dimension: int) -> Snapshot:
    """Of a collection of so many images, which has nothing but their descriptors."""
    none = np.full(count, -1, np.int64)
    return Snapshot(
        ids=np.arange(1, count + 1),
        sizes=np.ones((count, 2), np.int32),
        features_at=none,
        features=none,
        words_at=none,
        words=none,
        vectors_at=np.arange(count, dtype=np.int64) * (4 * dimension),
        segments=(),
        codebook=None,
        signer=None,
        word_log=LogReader(Path("/nonexistent")),
    )


def rates(search: Callable[[NDArray[np.float32]], object], queries: NDArray[np.float32]) -> list[float]:
    """Queries a second of one go, by one thread and by two."""
    found = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        began = time.perf_counter()
        search(queries)
        found.append(len(queries) / (time.perf_counter() - began))
    return found


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """The mean share of the true ones that were found."""
    return float(np.mean([len(np.intersect1d(a, b)) / truth.shape[1] for a, b in zip(found, truth, strict=True)]))


def compared(
    ours: Nearest,
    index: VectorIndex,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    truth: NDArray[np.int64],
) -> dict[str, float]:
    """Ours and faiss's IndexRefineFlat over the very same codes, in turns; medians."""
    bare, choice, inner = faiss.IndexRefineFlat(index._index, faiss.swig_ptr(vectors)), index.choice, None
    if choice.cells:
        inner = faiss.SearchParametersIVF(nprobe=choice.effort)
    elif choice.graph:
        inner = faiss.SearchParametersHNSW(efSearch=max(choice.effort, 10 * choice.depth))
    asked = faiss.IndexRefineSearchParameters(k_factor=float(choice.depth), base_index_params=inner)
    faiss.omp_set_num_threads(1)
    single = _seconds(lambda: ours.search(queries[:1], 10), _ROUNDS)
    few = queries[: int(np.clip(_SPENT / single, _FEWEST, len(queries)))]
    mine, theirs = [], []
    for _ in range(_ROUNDS):
        mine.append(rates(lambda q: ours.search(q, 10), few))
        theirs.append(rates(lambda q: bare.search(q, 10, params=asked), few))
    faiss.omp_set_num_threads(1)
    each = few[:_SINGLE]
    single = _seconds(lambda: [ours.search(query[None], 10) for query in each], 1) / len(each)
    one, two = np.median(mine, axis=0)
    bare_one, bare_two = np.median(theirs, axis=0)
    return {
        "recall": recall(ours.search(queries, 10)[0], truth),
        "bare_recall": recall(bare.search(queries, 10, params=asked)[1], truth),
        "single": 1000 * single,
        "one": float(one),
        "two": float(two),
        "bare_one": float(bare_one),
        "bare_two": float(bare_two),
    }


def reaching(
    index: VectorIndex, wanted: float, search: Callable[[VectorIndex], NDArray[np.int64]], truth: NDArray[np.int64]
) -> VectorIndex:
    """The index asked with the least depth, and then effort, that finds what is wanted; with the most otherwise."""
    for depth in (2, 5, 10, 20):
        for effort in (8, 16, 32, 64, 128, 256) if index.choice.cells or index.choice.graph else (1,):
            asked = index.asked(replace(index.choice, depth=depth, effort=effort))
            if recall(search(asked), truth) >= wanted:
                return asked
    return asked


def measure(real: Path, count: int, options: argparse.Namespace, folder: Path) -> list[Result]:
    """Every kind of index over `count` descriptors."""
    made = Made(read_real(real, options.dimension), options.seed)
    dimension = made.real.shape[1]
    log_path = folder / f"vectors-{count}.log"
    if not log_path.exists():
        written(made, count, log_path)
    log, state = LogReader(log_path), snapshot(count, dimension)
    queries = made.queries(options.queries)
    faiss.omp_set_num_threads(2)
    exact = Nearest(state, log, dimension, None)
    truth = exact.search(queries, 10)[0]
    vectors = log.record(0, 4 * dimension * count).view("<f4").reshape(count, dimension)
    flat = faiss.IndexFlatIP(dimension)
    flat.add(vectors)
    few = queries[: int(np.clip(2 * 10**7 // count, _FEWEST, len(queries)))]
    ours = np.median([rates(lambda q: exact.search(q, 10), few) for _ in range(3)], axis=0)
    bare = np.median([rates(lambda q: flat.search(q, 10), few) for _ in range(3)], axis=0)
    single = _seconds(lambda: [exact.search(query[None], 10) for query in few[:_FEWEST]], 1) / _FEWEST
    results = [
        Result(count, "exact", 1, 1, 1.0, 1000 * single, *ours.tolist(), 1.0, *bare.tolist(), 4.0 * dimension, 0.0)
    ]
    print(results[-1], flush=True)
    names = [k for k in kinds(dimension, count) if not options.kind or k.startswith(tuple(options.kind))]
    if count <= nearest.FEW:  # no index is asked
        return results
    for kind in names:
        faiss.omp_set_num_threads(2)
        choice = IndexChoice(kind)
        if choice.graph and count > options.graph:
            continue
        began = time.perf_counter()
        rows = np.sort(np.random.default_rng(options.seed).permutation(count)[: choice.sample])
        index = VectorIndex.build(choice, vectors[rows], made.blocks(count), seed=options.seed)
        built = time.perf_counter() - began
        index = reaching(
            index, options.recall, lambda i: Nearest(state, log, dimension, i).search(queries, 10)[0], truth
        )
        figures = compared(Nearest(state, log, dimension, index), index, vectors, queries, truth)
        asked = index.choice
        results.append(
            Result(
                images=count,
                kind=kind,
                depth=asked.depth,
                effort=asked.effort,
                bytes=index.bytes / count,
                build=built,
                **figures,
            )
        )
        print(results[-1], flush=True)
    return results


def streamed(real: Path, count: int, options: argparse.Namespace, kind: str) -> tuple[float, int, float]:
    """An index built from descriptors that are never held: seconds, its bytes, and seconds of making them alone."""
    faiss.omp_set_num_threads(2)
    made = Made(read_real(real, options.dimension), options.seed)
    began = time.perf_counter()
    for _ in made.blocks(count):
        pass
    drawing = time.perf_counter() - began
    began = time.perf_counter()
    choice = IndexChoice(kind)
    sample = np.concatenate([made.block(n, _BLOCK) for n in range(-(-choice.sample // _BLOCK))])[: choice.sample]
    index = VectorIndex.build(choice, sample, made.blocks(count), seed=options.seed)
    return time.perf_counter() - began, index.bytes, drawing


def hamming(count: int, bits: int, seed: int) -> list[tuple[str, int, float]]:
    """Bytes a second of codes that are compared exactly, by threads, and of memory that is only read."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (count, bits // 8), np.uint8)
    queries = pack(rng.random((64, bits)) > 0.5)
    scan, words = Scan(codes), codes.reshape(-1).view(np.uint64)
    found = [("reading memory", 1, codes.nbytes / _seconds(words.max))]
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        found.append(("one query", threads, codes.nbytes / _seconds(lambda: scan.search(queries[:1], 10))))
        together = _seconds(lambda: scan.search(queries, 10)) / len(queries)
        found.append((f"{len(queries)} queries together", threads, codes.nbytes / together))
    return found


def _seconds(work: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """The median of some rounds."""
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return median(spent)


def draw(results: Sequence[Result], path: Path) -> None:
    """Milliseconds a query against the number of images, both in decades."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for family in dict.fromkeys(r.family for r in results):
        own = [r for r in results if r.family == family]
        axes.loglog([r.images for r in own], [r.single for r in own], marker="o", label=family)
    axes.set_xlabel("images")
    axes.set_ylabel("ms a query, one at a time, one thread")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.savefig(path, bbox_inches="tight")


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Measure what was asked for, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, required=True, help="npz of real descriptors, from `resight export`")
    parser.add_argument("--images", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=512, help="(default: 512)")
    parser.add_argument("--kind", action="append", default=[], help="only kinds that begin so; repeatable")
    parser.add_argument("--recall", type=float, default=0.98, help="to reach by depth and effort (default: 0.98)")
    parser.add_argument("--queries", type=int, default=500, help="(default: 500)")
    parser.add_argument("--graph", type=int, default=100_000, help="images up to which a graph is built")
    parser.add_argument("--stream", type=int, help="also build an index of so many from a stream")
    parser.add_argument("--stream-kind", default="RaBitQfs", help="which index that is (default: RaBitQfs)")
    parser.add_argument("--codes", type=int, help="also scan so many codes of 256 bits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder that keeps the descriptors made (default: temporary)")
    parser.add_argument("--plot", type=Path, help="also draw ms a query against images here")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    protocol = (
        f"descriptors of {options.dimension} dimensions made from those of {options.real.name}, seed {options.seed}; "
        f"{options.queries} queries made alike; the 10 nearest; depth and effort raised until recall is "
        f"{options.recall} or as far as they are tried; rates are medians of {_ROUNDS} rounds in which ours and "
        "faiss's take turns"
    )
    print(header(protocol))
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(exist_ok=True)
        for count in options.images:
            results += measure(options.real, count, options, folder)
    if results:
        print(render(results))
    if options.stream:
        run = watched(streamed, options.real, options.stream, options, options.stream_kind)
        seconds, size, drawing = run.value
        head = ("index", "images", "built, s", "making them alone, s", "its bytes an image", "peak memory, MiB")
        figures = (f"{seconds:.0f}", f"{drawing:.0f}", f"{size / options.stream:.1f}", f"{run.peak / 2**20:.0f}")
        print("", table(head, [(options.stream_kind, f"{options.stream:,}", *figures)]), sep="\n")
    if options.codes:
        scanned = hamming(options.codes, 256, options.seed)
        read = scanned[0][2]
        rows = [(name, threads, f"{rate / 1e9:.2f}", f"{rate / read:.2f}") for name, threads, rate in scanned]
        print("", table((f"{options.codes:,} codes of 256 bits", "threads", "GB/s", "of reading"), rows), sep="\n")
    if options.plot and results:
        draw(results, options.plot)
    write_json(options.out, protocol, [asdict(r) for r in results])
    return results


def render(results: Sequence[Result]) -> str:
    """A Markdown table."""
    head = (
        "images", "index", "depth", "effort", "recall@10", "ms, one query", "queries/s, 1 thread", "2 threads",
        "bare faiss: recall@10", "ours ÷ bare, 1 thread", "2 threads", "bytes", "built, s",
    )  # fmt: skip
    rows = [
        (
            f"{r.images:,}",
            r.kind,
            r.depth,
            r.effort,
            f"{r.recall:.3f}",
            f"{r.single:.2f}",
            f"{r.one:,.0f}",
            f"{r.two:,.0f}",
            f"{r.bare_recall:.3f}",
            f"{r.one / r.bare_one:.2f}",
            f"{r.two / r.bare_two:.2f}",
            f"{r.bytes:.0f}",
            f"{r.build:.0f}",
        )
        for r in results
    ]
    return table(head, rows)


if __name__ == "__main__":
    main()
