"""The dynamic match kernel against the authors' Matlab lines, worked as loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.errors import QueryError
from resight.local.asmk import Encoding
from resight.local.dynamic_match import dynamic_similarity, hamming_threshold


def made(count: int, words: int, seed: int, *, repeated: bool = False) -> Encoding:
    rng = np.random.default_rng(seed)
    own = np.sort(rng.choice(words, count, replace=repeated)).astype(np.int32)
    return Encoding(own, rng.integers(0, 256, (count, 4)).astype(np.uint8))


def looped(x: Encoding, y: Encoding, threshold: int) -> float:
    """scoremap of query_dth_dta.m: (u + 1)/2 with u from 1 to −1 in steps of 2/B; a match has h ≤ ht."""
    total, bits = 0.0, 32
    for word, code in zip(x.words, x.codes, strict=True):
        for other, their in zip(y.words, y.codes, strict=True):
            h = sum(a != b for a, b in zip(np.unpackbits(code), np.unpackbits(their), strict=True))
            if word == other and h <= threshold:
                total += ((1 - 2 * h / bits) + 1) / 2
    return total / math.sqrt(len(x)) / math.sqrt(len(y))


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("threshold", [0, 12, 16, 32])
def test_similarities_follow_the_definition(threshold, repeated):
    x, y = made(20, 40, 0, repeated=repeated), made(25, 40, 1, repeated=repeated)
    assert dynamic_similarity(x, y, threshold) == pytest.approx(looped(x, y, threshold))


def test_thresholds_worked_by_hand():
    # ceil(128·0.6·exp(−d/2)): 76.8, 46.58, 28.25
    assert hamming_threshold([0.0, 1.0, 2.0], 128).tolist() == [77, 47, 29]
    assert hamming_threshold(0.0, 64, fraction=1.0) == 64
    assert hamming_threshold([[0.0], [1.0]], 128, decay=0.0).tolist() == [[77], [77]]


@given(st.floats(0, 2), st.floats(0, 2))
def test_nearer_images_match_as_freely_or_more(one, other):
    near, far = sorted([one, other])
    x, y = made(20, 25, 0), made(20, 25, 1)
    thresholds = hamming_threshold([near, far], 32)
    assert thresholds[0] >= thresholds[1]
    assert dynamic_similarity(x, y, int(thresholds[0])) >= dynamic_similarity(x, y, int(thresholds[1]))


def test_an_image_is_wholly_like_itself():
    x = made(20, 25, 0)
    assert dynamic_similarity(x, x, 0) == pytest.approx(1)


def test_nothing_matches_nothing():
    nothing = Encoding(np.empty(0, np.int32), np.empty((0, 4), np.uint8))
    assert dynamic_similarity(nothing, made(5, 9, 0), 32) == 0 == dynamic_similarity(made(5, 9, 0), nothing, 32)


def test_what_does_not_fit_is_refused():
    x = made(5, 9, 0)
    with pytest.raises(QueryError, match="32 and 16 bits"):
        dynamic_similarity(x, Encoding(x.words, x.codes[:, :2]), 3)
    for distance, options in ((-1.0, {}), (math.nan, {}), (1.0, {"fraction": 0.0}), (1.0, {"decay": -1.0})):
        with pytest.raises(QueryError):
            hamming_threshold(distance, 128, **options)
