"""Tentative correspondences between two images that share visual words (survey §4.2.2).

Only descriptors that meet in a word are compared, as in Hamming embedding (Jégou, Douze & Schmid, ECCV 2008), so a
pair of images costs a few hundred comparisons instead of a million. What is left is kept if the two descriptors are
close enough and each is the other's nearest: the mutual check takes the place of the ratio test, which needs a
second neighbour that a word often does not hold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PAIRS = 512  # compared at a time, so that they stay in the cache


@dataclass(frozen=True, eq=False)
class WordTable:
    """A query's descriptors, looked up by visual word.

    rows: M descriptor rows, by word; a row occurs once for each of its words.
    first: those of word w are rows[first[w]:first[w + 1]]; the last word of the table is one that no row has.
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    descriptors: NDArray[np.float32]

    @classmethod
    def build(cls, descriptors: NDArray[np.float32], assigned: NDArray[np.int64]) -> "WordTable":
        """descriptors: N×D; assigned: N×k words of each, −1 for none."""
        rows, columns = np.nonzero(assigned >= 0)
        words = assigned[rows, columns]
        first = np.cumsum([0, *np.bincount(words), 0])
        return cls(rows[np.argsort(words, kind="stable")], first, descriptors)

    def entries(self, words: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each word's rows begin, and how many there are; none for −1 and words that no row has."""
        unused = len(self.first) - 2
        known = np.where((words >= 0) & (words < unused), words, unused)
        first = self.first[known]
        return first, self.first[known + 1] - first


def match_by_words(
    query: WordTable,
    descriptors: NDArray[np.uint8 | np.int8 | np.float32],
    words: NDArray[np.integer],
    max_distance: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Mutual nearest neighbours within shared words.

    descriptors: M×D of the database image, words: M its words. max_distance: Euclidean, in the descriptors' units.
    Returns rows of the query, rows of the database image (each used once), and how many distances were computed.
    Ties are broken by row.
    """
    first, counts = query.entries(words)
    compared = int(counts.sum())
    j = np.repeat(np.arange(len(words)), counts)
    i = query.rows[np.arange(compared) + np.repeat(first - np.cumsum(counts) + counts, counts)]
    squared = np.empty(compared, np.float32)
    for start in range(0, compared, _PAIRS):
        part = slice(start, start + _PAIRS)
        difference = np.take(query.descriptors, i[part], axis=0)
        difference -= np.take(descriptors, j[part], axis=0)
        squared[part] = np.einsum("nd,nd->n", difference, difference)
    near = np.flatnonzero(squared <= max_distance**2)
    i, j, squared = i[near], j[near], squared[near]
    nearest_first = np.lexsort((j, i, squared))
    i, j = i[nearest_first], j[nearest_first]
    best_of_i = np.unique(i, return_index=True)[1]
    best_of_j = np.unique(j, return_index=True)[1]
    mutual = np.intersect1d(best_of_i, best_of_j, assume_unique=True)
    return i[mutual], j[mutual], compared
