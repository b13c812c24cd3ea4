"""The first ranking: how similar every image of a collection is to a query, by one cheap measure."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resight.hashing.asymmetric import asymmetric_scores
from resight.hashing.codes import pack
from resight.hashing.function import HashFunction
from resight.hashing.search import distances_to
from resight.local.asmk import Encoding
from resight.local.word_filter import WordFilter
from resight.store.log import LogReader
from resight.store.store import Snapshot

_BLOCK = 65_536  # vectors compared at a time


@dataclass(frozen=True, eq=False)
class WordWeights:
    """What a filter over visual words takes from the whole of a collection.

    squared_idf: (W,) float64, log(N/n)² for a word that n of the N images have, 0 for one that none has; None: all 1.
    squared_norms: (N,) float64, ‖X‖² of ``resight.local.word_filter`` for each image.
    """

    squared_idf: NDArray[np.float64] | None
    squared_norms: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> "WordWeights":
        """Those of the images at some positions, for a search among them."""
        return WordWeights(self.squared_idf, self.squared_norms[rows])


def word_weights(snapshot: Snapshot, measure: WordFilter, idf: NDArray[np.float64] | None = None) -> WordWeights:
    """Read from the postings of a snapshot's images, so that they are those of the images there are.

    idf: ``squared_idf`` of the collection that these images are a part of; by default they are all of it.
    Twice all postings are read for a filter with idf, once for one without, and none for one that is uniform.
    """
    if measure.uniform or snapshot.codebook is None:
        return WordWeights(None, snapshot.words.astype(np.float64))
    if not measure.idf:
        idf = None
    elif idf is None:
        idf = squared_idf(word_holders(snapshot, measure), len(snapshot))
    norms = np.zeros(len(snapshot))
    for words, positions, mass in _terms(snapshot, measure):
        np.add.at(norms, positions, mass**2 if idf is None else mass**2 * idf[words])
    return WordWeights(idf, norms)


def word_holders(snapshot: Snapshot, measure: WordFilter) -> NDArray[np.int64]:
    """How many images of a snapshot, which has a codebook, have each word; (W,) int64."""
    if snapshot.codebook is None:
        raise ValueError("there are no words yet: the snapshot has no codebook")
    holders = np.zeros(len(snapshot.codebook), np.int64)
    for words, _, _ in _terms(snapshot, measure):
        np.add.at(holders, words, 1)
    return holders


def squared_idf(holders: NDArray[np.int64], images: int) -> NDArray[np.float64]:
    """log(N/n)² of each word that n of N images have, 0 for one that none has; (W,) float64."""
    present = np.maximum(holders, 1)
    return np.where(holders > 0, np.log(np.maximum(images, present) / present) ** 2, 0.0)


def _terms(
    snapshot: Snapshot, measure: WordFilter
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]]:
    """Each pair of a word and an image of the snapshot that has it, once: the word, the image's position, its mass."""
    for part in (part for segment in snapshot.segments for part in segment.parts()):
        words = part.posting_words
        changes = (np.diff(words) != 0) | (np.diff(part.images) != 0)
        first = np.concatenate([[0], np.flatnonzero(changes) + 1])
        mass = np.add.reduceat(measure.mass(measure.comparable(part.codes)), first)
        position = snapshot.positions(part.images[first])
        there = position >= 0
        yield words[first[there]], position[there], mass[there]


def word_similarity(
    snapshot: Snapshot, query: Encoding, measure: WordFilter, weights: WordWeights
) -> tuple[NDArray[np.float32], int]:
    """S(query, Y) of ``resight.local.word_filter`` for each image Y of a snapshot.

    weights: ``word_weights`` of the same snapshot and filter.
    Returns (N,) float32, 0 for images without words, and the number of codes that were compared. Every sum is over an
    image's postings in the order of words, whichever segments they lie in: what was added or removed, and when, leaves
    no trace in it.
    """
    # Postings of removed images, at −1, are added in front of the others and dropped.
    total = np.zeros(len(snapshot) + 1)
    compared = 0
    asked = measure.comparable(query.codes)
    squared_idf = None if weights.squared_idf is None else weights.squared_idf[query.words]
    for segment in snapshot.segments:
        stored = measure.comparable(segment.codes) if len(segment) else segment.codes
        for rows, postings in segment.gather(query.words):
            # np.take copies rows of a few bytes many times as fast as indexing does.
            compare = measure.compare(np.take(asked, rows, axis=0), np.take(stored, postings, axis=0))
            value = compare if squared_idf is None else compare * squared_idf[rows]
            np.add.at(total, snapshot.positions(segment.images[postings]) + 1, value)
            compared += len(postings)
    norm = np.sqrt(weights.squared_norms * _squared_norm(query, measure, squared_idf))
    return np.divide(total[1:], norm, out=np.zeros(len(norm)), where=norm > 0).astype(np.float32), compared


def _squared_norm(query: Encoding, measure: WordFilter, squared_idf: NDArray[np.float64] | None) -> float:
    _, first = np.unique(query.words, return_index=True)
    mass = np.add.reduceat(measure.mass(measure.comparable(query.codes)), first) if len(query) else np.zeros(0)
    return float((mass**2 if squared_idf is None else mass**2 * squared_idf[first]).sum())


def stored_vectors(
    snapshot: Snapshot, log: LogReader, positions: NDArray[np.int64], dimension: int
) -> NDArray[np.float32]:
    """The vectors of the images at N positions of a snapshot, all of which have one; N×dimension float32."""
    if len(positions) == 0:
        return np.empty((0, dimension), np.float32)
    span, rows = spanned_vectors(snapshot, log, positions, dimension)
    return span[rows]


def vector_blocks(
    snapshot: Snapshot, log: LogReader, dimension: int, size: int = _BLOCK
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Positions of images with a vector, and their vectors, N×dimension float32, at most ``size`` at a time."""
    described = np.flatnonzero(snapshot.vectors_at >= 0)
    for start in range(0, len(described), size):
        part = described[start : start + size]
        block, own = spanned_vectors(snapshot, log, part, dimension)
        yield part, block if len(block) == len(part) else block[own]


def spanned_vectors(
    snapshot: Snapshot, log: LogReader, positions: NDArray[np.int64], dimension: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The vectors as they lie, from the first to the last of N positions, and the row of each in them.

    R×dimension float32, which is not copied and also holds what was removed between them; (N,). All have a vector.
    """
    places = snapshot.vectors_at[positions] // (4 * dimension)
    first, last = int(places.min()), int(places.max())
    span = log.record(4 * dimension * first, 4 * dimension * (last + 1 - first))
    return span.view("<f4").reshape(-1, dimension), places - first


def cosine_similarity(
    snapshot: Snapshot, log: LogReader, query: NDArray[np.float32], lengths: tuple[int, ...]
) -> NDArray[np.float32]:
    """Inner products of a (D,) query's ℓ2-normalised parts with those of each image; N×B float32, −1 without a vector.

    lengths: of the B parts; they sum to D.
    """
    similarity = np.full((len(snapshot), len(lengths)), -1.0, np.float32)
    ends = np.cumsum([0, *lengths])
    for part, block in vector_blocks(snapshot, log, len(query)):
        for place, (a, b) in enumerate(pairwise(ends.tolist())):
            # Unlike a matrix product, whose last bits depend on how many rows there are, this gives an image the same
            # wherever it lies: in a shard of a collection, or among others. It is as fast, bounded by memory.
            similarity[part, place] = np.einsum("nd,d->n", block[:, a:b], query[a:b])
    return similarity


def code_similarity(
    function: HashFunction,
    codes: NDArray[np.uint8],
    query: NDArray[np.float32],
    distance: Literal["hamming", "asymmetric"],
) -> NDArray[np.float32]:
    """How alike a (D,) query and N images are by their codes, N×B/8; (N,) float32 from −1 to 1.

    1 − 2h/B for codes that differ in h of B bits; or, asymmetric, the inner product of the query's real values with the
    code's ±1, as a share of the most that any code can have.
    """
    projected = function.project(query[None])
    if distance == "hamming":
        differing = distances_to(pack(projected > 0)[0], codes)
        return 1 - differing.astype(np.float32) * np.float32(2 / function.bits)
    most = float(np.abs(projected).sum())
    return np.asarray(asymmetric_scores(projected, codes)[0] / (most or 1.0), np.float32)
