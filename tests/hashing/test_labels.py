"""Labels to numbers, and the pairs that follow from them, against all pairs by a loop."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from resight.errors import RecipeError
from resight.hashing.labels import check_labels, pairs_of


def test_labels_of_any_kind():
    np.testing.assert_array_equal(check_labels(["b", "a", "b", "c"], 4), [1, 0, 1, 2])
    np.testing.assert_array_equal(check_labels([7, -1, 7], 3), [1, 0, 1])
    with pytest.raises(ValueError, match="label for each of 3"):
        check_labels([1, 2], 3)
    with pytest.raises(RecipeError, match="same label"):
        check_labels([4, 4], 2)


def test_all_matching_pairs_and_as_many_others():
    labels = np.random.default_rng(0).integers(6, size=30)
    pairs, match = pairs_of(labels, seed=0)
    expected = {pair for pair in combinations(range(30), 2) if labels[pair[0]] == labels[pair[1]]}
    found = [tuple(sorted(pair)) for pair in pairs[match].tolist()]
    assert len(found) == len(set(found)) == len(expected)
    assert set(found) == expected
    assert (~match).sum() == match.sum()
    assert (labels[pairs[~match, 0]] != labels[pairs[~match, 1]]).all()


def test_the_others_are_drawn_evenly():
    """Of 1, 2 and 7 images: the right one is any that does not match the left one, which is any image."""
    labels = np.array([2, 2, 1, 2, 2, 0, 2, 2, 1, 2])
    drawn = Counter()
    for seed in range(400):
        pairs, match = pairs_of(labels, seed=seed)
        drawn.update(map(tuple, pairs[~match].tolist()))
    total = sum(drawn.values())
    for left in range(10):
        others = [right for right in range(10) if labels[right] != labels[left]]
        for right in others:
            assert drawn[left, right] / total == pytest.approx(1 / 10 / len(others), abs=0.006)


def test_at_most_so_many():
    labels = np.repeat(np.arange(3), 40)
    pairs, match = pairs_of(labels, seed=0, most=50)
    assert match.sum() == 50
    assert len({tuple(pair) for pair in pairs[match].tolist()}) == 50
    assert (labels[pairs[match, 0]] == labels[pairs[match, 1]]).all()
    assert set(labels[pairs[match, 0]]) == {0, 1, 2}


def test_labels_that_never_repeat_are_refused():
    with pytest.raises(RecipeError, match="no two photos"):
        pairs_of(np.arange(5), seed=0)
