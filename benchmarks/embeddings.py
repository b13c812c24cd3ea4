"""Embeddings: encoding beside scikit-image and a loop, training a large codebook, searching bags of words, and PCA.

All data are drawn from a seed: what is measured does not depend on what the features mean.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from skimage.feature import fisher_vector
from sklearn.mixture import GaussianMixture

from common import header, table, write_json
from process import watched
from resight.embedding.codebook import Codebook
from resight.embedding.embedding import Features
from resight.embedding.fisher import Fisher
from resight.embedding.sparse_index import SparseIndex
from resight.embedding.vlad import Vlad
from resight.projection.moments import gather
from resight.projection.pca import pca_whitening

PARTS = ("encoding", "training", "search", "projection")
_STREAMED = 250  # vectors in a batch of a stream
_BLOCK = 100_000  # descriptors drawn at a time
_ROUNDS = 3  # in which two encodings take turns


@dataclass(frozen=True)
class Encoding:
    """Median milliseconds an image: all images given at once, one by one, and by the other implementation. apart: the
    largest ℓ2 norm of a difference from what the other makes of the features in float64.
    """

    name: str
    drawn: str
    dimension: int
    words: int
    features: int
    together: float
    alone: float
    other: float
    apart: float


@dataclass(frozen=True)
class Training:
    """Seconds and bytes of resident memory, of which the descriptors are mapped files; descriptors assigned a second;
    the share of 1,000 whose nearest word was found.
    """

    descriptors: int
    words: int
    seconds: float
    private: int
    rate: float
    found: float


@dataclass(frozen=True)
class Search:
    """Milliseconds a query: median, 95th percentile, and the median of scipy's product of all rows with the query."""

    words: str
    rows: int
    p50: float
    p95: float
    product: float
    opening: float


@dataclass(frozen=True)
class Projecting:
    """PCA-whitening learned from a stream. seconds, private: likewise, of learning. stream: bytes of it in float32."""

    entries: int
    kept: int
    vectors: int
    stream: int
    seconds: float
    private: int


def encoding(drawn: str, images: int, features: int, dimension: int, words: int, seed: int) -> list[Encoding]:
    """VLAD beside a loop over words, Fisher vectors beside scikit-image, of the same features and centres.

    drawn: "noise", which no component claims for itself, or "heaps", four times as many as words, of which each
        feature is near one, not below 0 and of length 1, like what convolutions leave.
    """
    rng = np.random.default_rng(seed)
    heaps = rng.normal(size=(4 * words, dimension))

    def draw(n: int) -> Features:
        if drawn == "noise":
            return rng.normal(size=(n, dimension)).astype(np.float32)
        x = np.maximum(heaps[rng.integers(0, len(heaps), n)] + rng.normal(scale=0.5, size=(n, dimension)), 0)
        return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9), np.float32)

    sample, sets = draw(64 * words), [draw(features) for _ in range(images)]
    vlad = Vlad.fit(sample, words, seed=seed, fitted_on=drawn)
    fisher = Fisher.fit(sample, words, seed=seed, fitted_on=drawn, by_weight=True)
    mixture = GaussianMixture(words, covariance_type="diag")
    mixture.weights_, mixture.means_ = fisher.gmm.weights.astype(float), fisher.gmm.means.astype(float)
    mixture.covariances_ = fisher.gmm.variances.astype(float)
    mixture.precisions_cholesky_ = 1 / np.sqrt(mixture.covariances_)
    flip = np.ones(fisher.dimension)
    flip[-words * dimension :] = -1  # scikit-image's gradient by variance has the other sign
    others: list[tuple[str, Vlad | Fisher, Callable[[Any], Any]]] = [
        ("VLAD; NumPy loop", vlad, lambda x: vlad_by_loop(x, vlad.codebook.words)),
        ("Fisher; scikit-image", fisher, lambda x: flip * fisher_vector(x, mixture, improved=True, alpha=0.5)),
    ]
    return [
        Encoding(name, drawn, dimension, words, features, *_beside(ours, sets, other)) for name, ours, other in others
    ]


def vlad_by_loop(features: Features, words: Features) -> Features:
    """VLAD with power law as it is usually written: scipy's distances, and a loop over words."""
    nearest = cdist(features, words).argmin(axis=1)
    sums = np.zeros_like(words)
    for word in range(len(words)):
        if (own := nearest == word).any():
            sums[word] = (features[own] - words[word]).sum(axis=0)
    vector: Features = np.sign(sums).ravel() * np.sqrt(np.abs(sums)).ravel()
    return vector / np.linalg.norm(vector)


def _beside(
    ours: Vlad | Fisher, sets: Sequence[Features], other: Callable[[Any], Any]
) -> tuple[float, float, float, float]:
    """The last four of an ``Encoding``."""
    vectors, exact = ours.transform_sets(sets), np.array([other(features.astype(np.float64)) for features in sets])
    together, alone, others = [], [], []
    for _ in range(_ROUNDS):
        together.append(_timed(lambda: ours.transform_sets(sets))[0] / len(sets))
        for features in sets:
            alone.append(_timed(lambda features=features: ours.transform(features))[0])
            others.append(_timed(lambda features=features: other(features))[0])
    medians = (1000 * float(np.median(seconds)) for seconds in (together, alone, others))
    return *medians, float(np.linalg.norm(vectors - exact, axis=1).max())


def training(descriptors: int, words: int, seed: int, folder: Path) -> Training:
    """Train on 128-d uint8 descriptors of 50,000 heaps in a mapped file, and assign 200,000 others."""
    path = folder / "descriptors.npy"
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (descriptors, 128))
    for start in range(0, descriptors, _BLOCK):
        file[start : start + _BLOCK] = _descriptors(min(_BLOCK, descriptors - start), seed, start)
    file.flush()
    del file
    kept = folder / "codebook.safetensors"
    run = watched(_train, path, words, seed, kept)
    codebook = Codebook.load(kept)
    fresh = _descriptors(min(200_000, descriptors), seed, -1).astype(np.float32)
    codebook.assign(fresh[:100])
    seconds, found = _timed(lambda: codebook.assign(fresh)[:, 0])
    nearest = cdist(fresh[:1000], codebook.words, "sqeuclidean").argmin(axis=1)
    share = float((found[:1000] == nearest).mean())
    return Training(descriptors, words, run.value, run.private, len(fresh) / seconds, share)


def _train(path: Path, words: int, seed: int, into: Path) -> float:
    began = time.perf_counter()
    Codebook.fit(np.load(path, mmap_mode="r"), words, seed=seed, fitted_on="heaps").save(into)
    return time.perf_counter() - began


def projection(entries: int, kept: int, vectors: int, seed: int) -> Projecting:
    """Learn PCA-whitening of vectors with `entries` entries to `kept` dimensions, a batch at a time."""
    run = watched(_project, entries, kept, vectors, seed)
    return Projecting(entries, kept, vectors, 4 * entries * vectors, run.value, run.private)


def _project(entries: int, kept: int, vectors: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    spread = (1 + np.arange(entries)) ** -0.5
    drawing = 0.0

    def stream() -> Iterator[NDArray[np.float32]]:
        nonlocal drawing
        for start in range(0, vectors, _STREAMED):
            began = time.perf_counter()
            batch = rng.standard_normal((min(_STREAMED, vectors - start), entries), np.float32) * spread
            drawing += time.perf_counter() - began
            yield batch.astype(np.float32)

    began = time.perf_counter()
    made = pca_whitening(gather(stream(), kept), kept, fitted_on="noise", descriptor="")
    if made.matrix.shape != (kept, entries):
        raise RuntimeError(f"the projection is {made.matrix.shape}, not {kept}×{entries}")
    return time.perf_counter() - began - drawing


def _descriptors(n: int, seed: int, part: int) -> NDArray[np.uint8]:
    centres = np.random.default_rng(seed).random((50_000, 128), np.float32) * 120
    rng = np.random.default_rng([seed, part + 1])
    drawn = centres[rng.integers(0, len(centres), n)] + 12 * rng.standard_normal((n, 128), np.float32)
    return drawn.clip(0, 255).astype(np.uint8)


def bags(n: int, words: int, held: int, skew: float, seed: int) -> csr_array:
    """n unit rows of `held` words (fewer where one is drawn twice): word W·u^skew, u uniform, so that 1 is uniform."""
    rng = np.random.default_rng(seed)
    column = (words * rng.random(n * held) ** skew).astype(np.int64)
    rows = csr_array((rng.random(n * held), (np.repeat(np.arange(n), held), column)), shape=(n, words))
    rows.sum_duplicates()
    norm = np.sqrt(rows.multiply(rows).sum(axis=1))
    rows.data /= np.repeat(norm, np.diff(rows.indptr))
    return rows.astype(np.float32)


def search(rows: int, words: int, held: int, queries: int, seed: int, folder: Path) -> list[Search]:
    """Search uniform and skewed bags in an index that is saved and opened again. Raises RuntimeError where its best
    score is not that of scipy's product.
    """
    results = []
    for name, skew in (("uniform", 1.0), ("skewed", 2.0)):
        database, asked = bags(rows, words, held, skew, seed), bags(queries, words, held, skew, seed + 1)
        _indexed(database).save(folder / name)
        opening, index = _timed(lambda name=name: SparseIndex.open(folder / name))
        index.search(asked[[0]], 100)
        times, products = [], []
        for number in range(queries):
            query = asked[[number]]
            seconds, (_, scores) = _timed(lambda query=query, index=index: index.search(query, 100))
            times.append(1000 * seconds)
            seconds, all_scores = _timed(lambda query=query, database=database: database @ query.toarray()[0])
            products.append(1000 * seconds)
            if not np.isclose(scores[0, 0], all_scores.max(), rtol=1e-4):
                raise RuntimeError(f"{name}: the best score is {scores[0, 0]}, not {all_scores.max()}")
        p50, p95 = np.percentile(times, [50, 95])
        results.append(Search(name, rows, float(p50), float(p95), float(np.median(products)), 1000 * opening))
    return results


def _indexed(rows: csr_array) -> SparseIndex:
    index = SparseIndex(rows.shape[1])
    index.add(rows)
    return index


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    value = function()
    return time.perf_counter() - began, value


def main(
    arguments: Sequence[str] | None = None,
) -> tuple[list[Encoding], list[Training], list[Search], list[Projecting]]:
    """Measure the four, or those asked for, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="only so much (default: all)")
    parser.add_argument("--images", type=int, default=50, help="sets to encode (default: 50)")
    parser.add_argument("--features", type=int, nargs="+", default=[50, 500, 2000], help="a set (default: 50 500 2000)")
    parser.add_argument("--dimension", type=int, nargs="+", default=[64, 128], help="of a feature (default: 64 128)")
    parser.add_argument(
        "--components", type=int, nargs="+", default=[64, 256], help="words or Gaussians (default: 64 256)"
    )
    parser.add_argument("--descriptors", type=int, default=5_000_000, help="to train on (default: 5000000)")
    parser.add_argument("--words", type=int, default=65_536, help="to train (default: 65536)")
    parser.add_argument("--rows", type=int, default=10_000, help="bags of words to search (default: 10000)")
    parser.add_argument("--vocabulary", type=int, default=500_000, help="words of these bags (default: 500000)")
    parser.add_argument("--held", type=int, default=1000, help="words in a bag (default: 1000)")
    parser.add_argument("--queries", type=int, default=100, help="bags asked for (default: 100)")
    parser.add_argument(
        "--project",
        nargs="+",
        default=["8192:8192:10000", "65536:256:20000"],
        metavar="D:K:N",
        help="entries, dimensions and vectors of each stream (default: 8192:8192:10000 65536:256:20000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--work", type=Path, help="folder for temporary files (default: the system's)")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    encoded: list[Encoding] = []
    trained: list[Training] = []
    found: list[Search] = []
    if "encoding" in options.part:
        for drawn, dimension, words, features in product(
            ("noise", "heaps"), options.dimension, options.components, options.features
        ):
            encoded += encoding(drawn, options.images, features, dimension, words, options.seed)
    projected: list[Projecting] = []
    if "projection" in options.part:
        for text in options.project:
            entries, kept, vectors = map(int, text.split(":"))
            projected.append(projection(entries, kept, vectors, options.seed))
    with TemporaryDirectory(dir=options.work) as folder:
        if "training" in options.part:
            trained.append(training(options.descriptors, options.words, options.seed, Path(folder)))
        if "search" in options.part:
            found += search(options.rows, options.vocabulary, options.held, options.queries, options.seed, Path(folder))
    protocol = (
        f"{options.images} sets of features of normal noise or of heaps of it, medians of {_ROUNDS} rounds in turns; "
        f"128-d uint8 descriptors of 50,000 heaps; bags of {options.held} of {options.vocabulary:,} words, 100 best "
        f"asked for by {options.queries} queries, one at a time; seed {options.seed}"
    )
    print(header(protocol), render(encoded, trained, found, projected), sep="\n")
    write_json(
        options.out,
        protocol,
        dict(
            zip(PARTS, ([asdict(each) for each in part] for part in (encoded, trained, found, projected)), strict=True)
        ),
    )
    return encoded, trained, found, projected


def render(
    encoded: Sequence[Encoding], trained: Sequence[Training], found: Sequence[Search], projected: Sequence[Projecting]
) -> str:
    """A Markdown table of each part that was measured."""
    encodings = table(
        ("encoding", "drawn", "D", "K", "features", "at once, ms", "one by one, ms", "other, ms", "÷ at once",
         "÷ one by one", "apart"),
        [
            (e.name, e.drawn, e.dimension, e.words, e.features, *(f"{ms:.2f}" for ms in (e.together, e.alone, e.other)),
             f"{e.other / e.together:.1f} ×", f"{e.other / e.alone:.1f} ×", f"{e.apart:.0e}")
            for e in encoded
        ],
    )  # fmt: skip
    trainings = table(
        ("descriptors", "words", "training, s", "private memory, MiB", "assigned a second", "nearest word found"),
        [
            (t.descriptors, t.words, f"{t.seconds:.0f}", f"{t.private / 2**20:.0f}", f"{t.rate:,.0f}", f"{t.found:.1%}")
            for t in trained
        ],
    )
    searches = table(
        ("words", "rows", "query, ms", "95th percentile, ms", "product of all rows, ms", "opening, ms"),
        [(s.words, s.rows, *(f"{ms:.1f}" for ms in (s.p50, s.p95, s.product, s.opening))) for s in found],
    )
    projections = table(
        ("entries", "dimensions", "vectors", "stream, MiB", "learning, s", "private memory, MiB"),
        [
            (p.entries, p.kept, p.vectors, f"{p.stream / 2**20:.0f}", f"{p.seconds:.0f}", f"{p.private / 2**20:.0f}")
            for p in projected
        ],
    )
    made = ((encoded, encodings), (trained, trainings), (found, searches), (projected, projections))
    return "\n\n".join(text for measured, text in made if measured)


if __name__ == "__main__":
    main()
