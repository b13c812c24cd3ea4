"""SIFT as supervision: its neighbours are what a network learns to find, without straying from what it was.

SIFT-CNN: Lv, Zhou, Tian, Sun & Li, "Retrieval Oriented Deep Feature Learning with Complementary Supervision Mining",
IEEE TIP 2018. By its abstract one loss embeds the neighbourhoods that SIFT gives whole images, and the other keeps the
descriptor near that of the network as it was. The paper's text was not checked: words with tf·idf, reciprocity and the
numbers are ours.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from resight.embedding.bow import Bow
from resight.embedding.codebook import choose_words
from resight.embedding.embedding import Features
from resight.embedding.sparse_index import SparseIndex
from resight.errors import RecipeError
from resight.learning.datasets.photos import Photo
from resight.learning.unlabelled.pools import Places, Pools, pools_of
from resight.learning.unlabelled.stages import SiftStage
from resight.learning.unlabelled.verified import rootsift_of
from resight.search.rerank.neighbours import knn, without

_WORDS_FROM = 1000  # photos that words are learned from, at most
_TOGETHER = 256  # photos whose words are counted, or whose neighbours are looked up, at a time


def sift_neighbours(photos: Sequence[Photo], stage: SiftStage, *, seed: int = 0) -> Places:
    """N×k, k = min(``near``, N − 1), of each photo those of most similar RootSIFT words, the nearest first; −1 beyond
    the last that shares a word.

    Words are learned from the features of at most 1000 photos, drawn; photos are compared by the cosine of tf·idf, with
    √tf. Memory is for those features, and some 20 bytes for each word of each photo. Raises ResightError where a photo
    cannot be read, RecipeError where there are fewer features than words.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(photos))[:_WORDS_FROM])
    features = np.concatenate(list(_features([photos[place] for place in drawn.tolist()], stage)))
    words = stage.words or choose_words(len(features))
    if len(features) < max(words, 2):
        raise RecipeError(
            f"{len(drawn)} photos have {len(features)} SIFT features, too few for {words} words: give photos with more "
            "texture, or ask for fewer words (unlabelled.words)"
        )
    bow = Bow.fit(features, words, seed=seed, fitted_on=f"{len(drawn):,} photos", root=True)
    del features
    # One reading of the photos: idf follows from the words that they turn out to have.
    counts = csr_array(vstack([bow.transform_sparse(part) for part in _parts(photos, stage)], format="csr"))
    held = np.bincount(counts.indices, minlength=words)
    counts.data *= np.log(len(photos) / np.maximum(held, 1)).astype(np.float32)[counts.indices]
    norm = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    counts.data /= np.repeat(np.maximum(norm, np.finfo(np.float32).tiny), np.diff(counts.indptr)).astype(np.float32)
    return _nearest(counts, min(stage.reach(len(photos))[0], len(photos) - 1))


def pools_of_sift(rows: Places, x: NDArray[np.float32], stage: SiftStage) -> Pools:
    """Positives are the photos nearest by SIFT, those that the network has farthest first; negatives those nearest by
    the network that SIFT does not have near, the nearest first.

    rows: N×k, as ``sift_neighbours`` gives them. x: N×D, ℓ2-normalised. Raises RecipeError where no photo has both.
    """
    first = [set(row[row >= 0].tolist()) for row in rows[:, : stage.positives]]
    close, _ = knn(x, stage.reach(len(x))[1])
    positives: list[Places] = []
    negatives: list[Places] = []
    for anchor, own in enumerate(first):
        able = np.array(sorted(p for p in own if not stage.reciprocal or anchor in first[p]), np.int64)
        positives.append(able[np.lexsort((able, x[able] @ x[anchor]))])
        negatives.append(close[anchor][~np.isin(close[anchor], rows[anchor])])
    return pools_of(np.arange(len(x), dtype=np.int64), positives, negatives)


def _nearest(counts: csr_array, k: int) -> Places:
    """N×k of N×W ℓ2-normalised rows; −1 where the inner product is 0."""
    index = SparseIndex(counts.shape[1])
    index.add(counts)
    found = np.full((counts.shape[0], k), -1, np.int64)
    for start in range(0, counts.shape[0], _TOGETHER):
        part = slice(start, start + _TOGETHER)
        rows, similarity = index.search(counts[part], k + 1)
        others = without(rows, np.arange(start, start + len(rows)))
        found[part] = np.where(similarity > 0, rows, -1)[others].reshape(len(rows), k)
    return found


def _features(photos: Sequence[Photo], stage: SiftStage) -> Iterator[Features]:
    """RootSIFT of each photo, n×128."""
    for photo in photos:
        found, _ = rootsift_of(photo, features=stage.features, max_side=stage.max_side)
        yield found.descriptors.astype(np.float32)


def _parts(photos: Sequence[Photo], stage: SiftStage) -> Iterator[list[Features]]:
    for start in range(0, len(photos), _TOGETHER):
        yield list(_features(photos[start : start + _TOGETHER], stage))
