"""ASMK*'s inverted file against a plain NumPy one and against matching by brute force: queries a second, and bytes.

On made codes: visual words drawn from a skewed distribution, as those of photographs are, and random residual signs.
Of every query a part is an image's own postings with some bits flipped, which each way must find. No photographs are
needed. The three ways take turns in one process and must give the same scores.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import header, table, write_json
from process import Run, watched
from resight.embedding.codebook import Codebook
from resight.local.asmk import Encoding, selectivity
from resight.local.asmk_filter import AsmkFilter
from resight.search.filters import word_similarity, word_weights
from resight.store.inverted import Segment, merged, write_segment
from resight.store.log import LogReader
from resight.store.store import Snapshot

_TOGETHER = 5_000  # images made and written at a time
_FLIPPED = 0.2  # of the bits of a query's code, beside the one of the image that it is of
_APART = 1e-5  # most that two ways' scores may differ by
# Zipf's law with an offset, which k-means evens out: a posting list read is nearly three times as long as the mean one.
_OFFSET, _EXPONENT = 200, 0.7

Score = Callable[[Encoding], NDArray[np.float32]]


@dataclass(frozen=True)
class Result:
    """One way. images: those it was measured on. ms: median a query, brought to all images where these are fewer.

    bytes: kept for each descriptor of an image. times: ms over that of the inverted file.
    """

    way: str
    images: int
    ms: float
    a_second: float
    bytes: float
    times: float


def word_chances(words: int) -> NDArray[np.float64]:
    """(W,) cumulative probabilities of the words."""
    weight = (np.arange(words) + _OFFSET) ** -_EXPONENT
    return np.cumsum(weight / weight.sum())


def drawn(chances: NDArray[np.float64], count: int, code_bytes: int, rng: np.random.Generator) -> Encoding:
    """`count` descriptors as an image's postings: fewer where two fall on a word."""
    words = np.unique(np.minimum(np.searchsorted(chances, rng.random(count)), len(chances) - 1)).astype(np.int32)
    return Encoding(words, np.frombuffer(rng.bytes(len(words) * code_bytes), np.uint8).reshape(-1, code_bytes))


def asked(image: Encoding, clutter: Encoding, rng: np.random.Generator) -> Encoding:
    """A query that shows an image again: its words with bits flipped, and those of `clutter`, which give way."""
    noise = np.packbits(rng.random((len(image), 8 * image.codes.shape[1])) < _FLIPPED, axis=1)
    other = ~np.isin(clutter.words, image.words)
    words = np.concatenate([image.words, clutter.words[other]])
    codes = np.concatenate([image.codes ^ noise, clutter.codes[other]])
    order = np.argsort(words)
    return Encoding(words[order], codes[order])


def built(encodings: Iterator[Encoding], folder: Path, code_bytes: int, images: int) -> tuple[Segment, list[int]]:
    """The segment on disk, merged of smaller ones as a collection's is, and each image's number of postings."""
    segments, lengths = [], []
    for start in range(0, images, _TOGETHER):
        part = [next(encodings) for _ in range(start, min(start + _TOGETHER, images))]
        ids = range(start + 1, start + len(part) + 1)
        write_segment(folder / str(start), [Segment.build(ids, part, code_bytes)])
        segments.append(Segment.open(folder / str(start)))
        lengths += [len(encoding) for encoding in part]
    write_segment(folder / "all", merged(segments, lambda ids: np.ones(len(ids), bool)))
    return Segment.open(folder / "all"), lengths


def snapshot_of(segment: Segment, lengths: Sequence[int], folder: Path) -> Snapshot:
    """The segment as all that a collection has."""
    none = np.full(len(lengths), -1)
    return Snapshot(
        ids=np.arange(1, len(lengths) + 1),
        sizes=np.ones((len(lengths), 2), np.int32),
        features_at=none,
        features=none,
        words_at=none,
        words=np.array(lengths, np.int64),
        vectors_at=none,
        segments=(segment,),
        codebook=None,
        signer=None,
        word_log=LogReader(folder / "none"),
    )


class PlainFile:
    """The straightforward way: a dictionary from words to the images and codes of each, and a loop over words."""

    def __init__(self, segment: Segment, lengths: Sequence[int]) -> None:
        bounds = zip(segment.words.tolist(), segment.offsets[:-1].tolist(), segment.offsets[1:].tolist(), strict=True)
        self.lists = {w: (segment.images[a:b].copy(), segment.codes[a:b].copy()) for w, a, b in bounds}
        self.lengths = np.array(lengths)
        self.weight = selectivity(8 * segment.codes.shape[1], 3.0, 0.0)

    def score(self, query: Encoding) -> NDArray[np.float32]:
        """S(query, Y) of each image."""
        total = np.zeros(len(self.lengths) + 1)
        for word, code in zip(query.words.tolist(), query.codes, strict=True):
            if word in self.lists:
                images, codes = self.lists[word]
                total[images] += self.weight[np.bitwise_count(codes ^ code).sum(axis=1)]
        return (total[1:] / np.sqrt(len(query) * self.lengths)).astype(np.float32)

    @property
    def bytes(self) -> int:
        """What the dictionary, its keys, pairs and arrays take."""
        entries = ((word, pair, *pair) for word, pair in self.lists.items())
        return sys.getsizeof(self.lists) + sum(sys.getsizeof(part) for entry in entries for part in entry)


@dataclass(frozen=True)
class BruteForce:
    """Every code of the query with every code of an image; those that share a word count."""

    images: Sequence[Encoding]

    def score(self, query: Encoding) -> NDArray[np.float32]:
        """S(query, Y) of each image."""
        weight = selectivity(8 * query.codes.shape[1], 3.0, 0.0)
        scores = []
        for image in self.images:
            lanes = zip(query.codes.view(np.uint64).T, image.codes.view(np.uint64).T, strict=True)
            distance = sum((np.bitwise_count(a[:, None] ^ b).astype(np.int16) for a, b in lanes), start=np.int16(0))
            met = query.words[:, None] == image.words
            scores.append(weight[distance[met]].sum() / np.sqrt(len(query) * len(image)))
        return np.array(scores, np.float32)

    @property
    def bytes(self) -> int:
        """Words and codes."""
        return sum(image.words.nbytes + image.codes.nbytes for image in self.images)


def check(scores: NDArray[np.float32], others: NDArray[np.float32], way: str) -> None:
    """Raises RuntimeError where two ways disagree."""
    apart = float(np.abs(scores[: len(others)] - others).max())
    if not apart <= _APART:
        raise RuntimeError(f"{way} differs from the inverted file by {apart:.2g}: one of them is wrong")


def timed(ways: dict[str, Score], queries: Sequence[Encoding], rounds: int) -> dict[str, float]:
    """Median ms a query of each way; for every query they take turns, and another begins each round."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    names = list(ways)
    for turn in range(rounds):
        for query in queries:
            for way in names[turn % len(names) :] + names[: turn % len(names)]:
                began = time.perf_counter()
                ways[way](query)
                seconds[way].append(time.perf_counter() - began)
    return {way: 1000 * float(np.median(taken)) for way, taken in seconds.items()}


def measure(options: argparse.Namespace, folder: Path) -> list[Result]:
    """The inverted file, the plain one and brute force; RuntimeError where scores differ or an image is not found."""
    rng = np.random.default_rng(options.seed)
    chances, code_bytes = word_chances(options.words), options.bits // 8
    subset = min(options.subset, options.images)
    first = [drawn(chances, options.features, code_bytes, rng) for _ in range(subset)]
    rest = (drawn(chances, options.features, code_bytes, rng) for _ in range(options.images - subset))
    segment, lengths = built((e for part in (first, rest) for e in part), folder, code_bytes, options.images)
    snapshot, plain, brute = snapshot_of(segment, lengths, folder), PlainFile(segment, lengths), BruteForce(first)
    centroids = np.zeros((1, options.bits), np.float32)
    asmk = AsmkFilter(Codebook(centroids, centroids, "made"))
    weights = word_weights(snapshot, asmk)
    ways: dict[str, Score] = {
        "inverted file": lambda query: word_similarity(snapshot, query, asmk, weights)[0],
        "plain NumPy": plain.score,
        f"brute force, on {subset:,}": brute.score,
    }
    own = [int(image) for image in rng.integers(0, subset, options.queries)]
    clutter = options.features * (options.assignments - 1)
    queries = [asked(first[image], drawn(chances, clutter, code_bytes, rng), rng) for image in own]
    for image, query in zip(own, queries, strict=True):
        found, *others = (score(query) for score in ways.values())
        for way, scores in zip(list(ways)[1:], others, strict=True):
            check(found, scores, way)
        if int(found.argmax()) != image:
            raise RuntimeError(f"the query of image {image} finds image {int(found.argmax())}")
    ms = timed(ways, queries, options.rounds)
    descriptors = options.images * options.features
    kept = sum(path.stat().st_size for path in (folder / "all").iterdir())
    costs = [(options.images, kept / descriptors), (options.images, plain.bytes / descriptors)]
    costs.append((subset, brute.bytes / (subset * options.features)))
    results = []
    for (way, spent), (images, size) in zip(ms.items(), costs, strict=True):
        whole = spent * options.images / images
        results.append(Result(way, images, whole, 1000 / whole, size, whole / ms["inverted file"]))
    return results


def build_alone(options: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Seconds that building the file takes, and drawing what goes into it."""
    chances, code_bytes = word_chances(options.words), options.bits // 8
    lengths, drawing, began = [], 0.0, time.perf_counter()

    def encodings() -> Iterator[Encoding]:
        nonlocal drawing
        rng = np.random.default_rng(options.seed)
        for _ in range(options.images):
            start = time.perf_counter()
            encoding = drawn(chances, options.features, code_bytes, rng)
            drawing += time.perf_counter() - start
            yield encoding

    _, lengths = built(encodings(), folder, code_bytes, options.images)
    np.save(folder / "lengths.npy", np.array(lengths))
    for part in folder.iterdir():
        if part.name.isdecimal():
            shutil.rmtree(part)
    return time.perf_counter() - began - drawing, drawing


def search_alone(options: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Milliseconds of the median query, and of the slowest; each is asked once, for images drawn anew."""
    chances, code_bytes = word_chances(options.words), options.bits // 8
    rng = np.random.default_rng(options.seed)
    first = [drawn(chances, options.features, code_bytes, rng) for _ in range(options.queries)]
    snapshot = snapshot_of(Segment.open(folder / "all"), np.load(folder / "lengths.npy"), folder)
    centroids = np.zeros((1, options.bits), np.float32)
    asmk = AsmkFilter(Codebook(centroids, centroids, "made"))
    weights, spent = word_weights(snapshot, asmk), []
    for image, encoding in enumerate(first):
        query = asked(encoding, drawn(chances, options.features * (options.assignments - 1), code_bytes, rng), rng)
        began = time.perf_counter()
        scores, _ = word_similarity(snapshot, query, asmk, weights)
        spent.append(1000 * (time.perf_counter() - began))
        if int(scores.argmax()) != image:
            raise RuntimeError(f"the query of image {image} finds image {int(scores.argmax())}")
    return float(np.median(spent)), max(spent)


def alone(options: argparse.Namespace, folder: Path) -> str:
    """The inverted file by itself, built and searched in a process each: what it takes and what memory."""
    building = watched(build_alone, options, folder)
    searching = watched(search_alone, options, folder)
    kept = sum(path.stat().st_size for path in (folder / "all").iterdir())

    def memory(run: Run) -> str:
        return f"{run.peak / 2**20:,.0f} ({run.private / 2**20:,.0f})"

    head = ("images", "on disk, GiB", "bytes a descriptor", "built, s", "drawn beside it, s", "memory, MiB (private)",
            "ms a query", "slowest", "memory, MiB (private)")  # fmt: skip
    row = (
        f"{options.images:,}",
        f"{kept / 2**30:.2f}",
        f"{kept / (options.images * options.features):.1f}",
        *(f"{seconds:.0f}" for seconds in building.value),
        memory(building),
        *(f"{ms:.0f}" for ms in searching.value),
        memory(searching),
    )
    return table(head, [row])


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Compare the ways, or measure the inverted file alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000, help="(default: 100000)")
    parser.add_argument("--features", type=int, default=300, help="descriptors an image (default: 300)")
    parser.add_argument("--words", type=int, default=65_536, help="visual words (default: 65536)")
    parser.add_argument("--bits", type=int, default=128, help="of a code, a multiple of 64 (default: 128)")
    parser.add_argument("--assignments", type=int, default=5, help="words of a query's descriptor (default: 5)")
    parser.add_argument("--queries", type=int, default=10, help="(default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="times each is asked (default: 3)")
    parser.add_argument("--subset", type=int, default=100, help="images of brute force (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of codes and queries (default: 0)")
    parser.add_argument("--alone", action="store_true", help="only the inverted file, and what memory it takes")
    parser.add_argument("--work", type=Path, help="folder for the inverted file (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    protocol = (
        f"{options.images:,} images of {options.features} descriptors, {options.words:,} words with chances as "
        f"(rank + {_OFFSET})^−{_EXPONENT}, {options.bits} bits; {options.queries} queries of "
        f"{options.assignments} words a descriptor, {options.rounds} times, in turns; α = 3, τ = 0; seed "
        f"{options.seed}; the files are in memory or its cache; brute force is brought to all images in proportion"
    )
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        if options.alone:
            print(header(protocol), alone(options, Path(folder)), sep="\n")
            return []
        results = measure(options, Path(folder))
    rows = [(r.way, f"{r.ms:,.1f}", f"{r.a_second:.3g}", f"{r.bytes:.1f}", f"{r.times:,.1f}") for r in results]
    print(header(protocol))
    print(table(("way", "ms a query", "queries a second", "bytes a descriptor", "times as long"), rows))
    write_json(options.out, protocol, [asdict(r) for r in results])
    return results


if __name__ == "__main__":
    main()
