"""Matching within words, against a search over all pairs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from resight.embedding.codebook import Codebook
from resight.images.image import Image
from resight.local.matching import WordTable, match_by_words
from resight.local.rootsift import UNIT, rootsift


def naive(query, assigned, descriptors, words, max_distance):
    """Mutual nearest pairs by two loops; ties go to the lower row."""
    pairs = {}
    for i, a in enumerate(query):
        for j, b in enumerate(descriptors):
            if words[j] >= 0 and words[j] in assigned[i]:
                pairs[i, j] = sum((int(x) - int(y)) ** 2 for x, y in zip(a, b, strict=True))
    near = {pair: d for pair, d in pairs.items() if d <= max_distance**2}
    best_j = {i: min((d, j) for (k, j), d in near.items() if k == i)[1] for i, _ in near}
    best_i = {j: min((d, i) for (i, k), d in near.items() if k == j)[1] for _, j in near}
    return sorted((i, j) for i, j in best_j.items() if best_i[j] == i), len(pairs)


@st.composite
def problems(draw):
    """Few values in few dimensions, so that ties and exact thresholds occur; a third of the words is none (−1)."""
    n, m = draw(st.sampled_from([0, 1, 9, 15])), draw(st.sampled_from([0, 1, 9, 15]))
    k, limit = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 5]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    query, database = (rng.integers(0, 4, (size, 3)).astype(np.uint8) for size in (n, m))
    assigned = np.array([rng.permutation(4)[:k] for _ in range(n)], np.int64).reshape(n, k)
    assigned[rng.random((n, k)) < 0.3] = -1
    return query, assigned, database, rng.integers(-1, 4, m), limit


@given(problems())
def test_matches_are_the_mutual_nearest_pairs_that_share_a_word(problem):
    query, assigned, descriptors, words, limit = problem
    i, j, compared = match_by_words(WordTable.build(query.astype(np.float32), assigned), descriptors, words, limit)
    expected, pairs = naive(query, assigned, descriptors, words, limit)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == expected
    assert compared == pairs


def test_on_real_descriptors_too(pictures, view):
    other, _ = view(pictures["coffee"], 3)
    one, two = (
        rootsift(Image(p, p.shape[1::-1], "-"), max_features=80, contrast_threshold=0.01, edge_threshold=10.0)
        for p in (pictures["coffee"], other)
    )
    both = np.concatenate([one.descriptors, two.descriptors])
    codebook = Codebook.fit(both, 8, seed=0, fitted_on="these")
    assigned = codebook.assign(one.descriptors.astype(np.float32), 3)
    words = codebook.assign(two.descriptors.astype(np.float32))[:, 0]
    table = WordTable.build(one.descriptors.astype(np.float32), assigned)
    i, j, compared = match_by_words(table, two.descriptors, words, 0.48 * UNIT)
    expected, pairs = naive(one.descriptors, assigned, two.descriptors, words, 0.48 * UNIT)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == expected and len(expected) > 20
    assert compared == pairs < len(one) * len(two)
