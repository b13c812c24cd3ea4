"""Tentative correspondences between two images that share visual words (survey §4.2.2).

Only descriptors that meet in a word are compared, as in Hamming embedding (Jégou, Douze & Schmid, ECCV 2008), so a
pair of images costs a few hundred comparisons instead of a million. What is left is kept if the two descriptors are
close enough and each is the other's nearest: the mutual check takes the place of the ratio test, which needs a
second neighbour that a word often does not hold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class WordTable:
    """A query's descriptors, looked up by visual word.

    words: M ascending word of each entry; rows: M the descriptor's row. A row occurs once for each of its words.
    """

    words: NDArray[np.int64]
    rows: NDArray[np.int64]
    descriptors: NDArray[np.float32]

    @classmethod
    def build(cls, descriptors: NDArray[np.float32], assigned: NDArray[np.int64]) -> "WordTable":
        """descriptors: N×D; assigned: N×k words of each, −1 for none."""
        rows, columns = np.nonzero(assigned >= 0)
        words = assigned[rows, columns]
        order = np.argsort(words, kind="stable")
        return cls(words[order], rows[order], descriptors)


def match_by_words(
    query: WordTable,
    descriptors: NDArray[np.uint8] | NDArray[np.float32],
    words: NDArray[np.integer],
    max_distance: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Mutual nearest neighbours within shared words.

    descriptors: M×D of the database image, words: M its words. max_distance: Euclidean, in the descriptors' units.
    Returns rows of the query, rows of the database image (each used once), and how many distances were computed.
    Ties are broken by row.
    """
    first = np.searchsorted(query.words, words, "left")
    counts = np.searchsorted(query.words, words, "right") - first
    compared = int(counts.sum())
    j = np.repeat(np.arange(len(words)), counts)
    i = query.rows[np.arange(compared) + np.repeat(first - np.cumsum(counts) + counts, counts)]
    difference = query.descriptors[i] - descriptors[j].astype(np.float32)
    squared = np.einsum("nd,nd->n", difference, difference)
    near = np.flatnonzero(squared <= max_distance**2)
    i, j, squared = i[near], j[near], squared[near]
    nearest_first = np.lexsort((j, i, squared))
    i, j = i[nearest_first], j[nearest_first]
    best_of_i = np.unique(i, return_index=True)[1]
    best_of_j = np.unique(j, return_index=True)[1]
    mutual = np.intersect1d(best_of_i, best_of_j, assume_unique=True)
    return i[mutual], j[mutual], compared
