"""ASMK* from its equations, typed as loops, on real descriptors."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.embedding.codebook import Codebook
from resight.images.image import Image
from resight.local.asmk import Encoding, encode, encode_assigned, selectivity
from resight.local.rootsift import rootsift


def aggregated(descriptors, codebook, k=1) -> dict[int, list[bool]]:
    """b(X_c) of each word: the signs of the summed residuals."""
    sums = {}
    for descriptor in descriptors.astype(np.float32):
        order = sorted(range(len(codebook)), key=lambda w: ((descriptor - codebook.words[w]) ** 2).sum())
        for word in order[:k]:
            sums[word] = sums.get(word, np.zeros(codebook.dimension)) + (descriptor - codebook.words[word])
    return {word: [bool(v >= 0) for v in total] for word, total in sums.items()}


def similarity(x: dict, y: dict, alpha=3.0, tau=0.0) -> float:
    total = 0.0
    for word in x.keys() & y.keys():
        bits = len(x[word])
        hamming = sum(a != b for a, b in zip(x[word], y[word], strict=True))
        u = 1 - 2 * hamming / bits
        total += math.copysign(abs(u) ** alpha, u) if u > tau else 0.0
    return total / math.sqrt(len(x) * len(y))


def of_encodings(x: Encoding, y: Encoding, alpha=3.0, tau=0.0) -> float:
    """The same from what the code makes, by its table of selectivities."""
    weight = selectivity(x.codes.shape[1] * 8, alpha, tau)
    total = sum(
        float(weight[np.bitwise_count(x.codes[i] ^ y.codes[j]).sum()])
        for i, word in enumerate(x.words)
        for j in np.flatnonzero(y.words == word)
    )
    return total / math.sqrt(len(x) * len(y))


@pytest.fixture(scope="module")
def described(pictures, view) -> list[np.ndarray]:
    seen = [pictures["coffee"], view(pictures["coffee"], 1)[0], pictures["rocket"]]
    settings = {"max_features": 120, "contrast_threshold": 0.01, "edge_threshold": 10.0}
    return [rootsift(Image(p, p.shape[1::-1], "-"), **settings).descriptors.astype(np.float32) for p in seen]


@pytest.fixture(scope="module")
def codebook(described) -> Codebook:
    fitted = Codebook.fit(np.concatenate(described), 16, seed=0, fitted_on="these")
    return Codebook(fitted.coarse, fitted.words, "these", probes=len(fitted.coarse))


@pytest.mark.parametrize("k", [1, 3])
def test_encodings_follow_the_equations(described, codebook, k):
    for descriptors in described:
        expected = aggregated(descriptors, codebook, k)
        found = encode(descriptors, codebook, k)
        assert found.words.tolist() == sorted(expected)
        for word, code in zip(found.words.tolist(), found.codes, strict=True):
            # A component whose sum is rounding noise about zero has no defined sign; there is none in practice.
            assert np.unpackbits(code).astype(bool).tolist() == expected[word]


@pytest.mark.parametrize(("alpha", "tau"), [(3.0, 0.0), (1.0, 0.25), (2.0, -1.0)])
def test_similarities_follow_the_equations(described, codebook, alpha, tau):
    naive, ours = [aggregated(d, codebook) for d in described], [encode(d, codebook) for d in described]
    for a in range(3):
        for b in range(3):
            expected = similarity(naive[a], naive[b], alpha, tau)
            assert of_encodings(ours[a], ours[b], alpha, tau) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert similarity(naive[0], naive[1]) > 2 * similarity(naive[0], naive[2])


def test_an_image_is_wholly_similar_to_itself(described, codebook):
    for descriptors in described:
        encoding = encode(descriptors, codebook)
        assert of_encodings(encoding, encoding) == pytest.approx(1, rel=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_descriptors_does_not_matter(described, codebook, seed):
    # Whole numbers, so that sums do not depend on the order of their terms.
    whole = Codebook(np.round(codebook.coarse), np.round(codebook.words), "-", probes=len(codebook.coarse))
    shuffled = np.random.default_rng(seed).permutation(described[0])
    one, two = encode(described[0], whole), encode(shuffled, whole)
    np.testing.assert_array_equal(one.words, two.words)
    np.testing.assert_array_equal(one.codes, two.codes)


def test_selectivity_worked_by_hand():
    np.testing.assert_allclose(selectivity(4, 3.0, 0.0), [1, 0.125, 0, 0, 0])
    np.testing.assert_allclose(selectivity(4, 1.0, -1.0), [1, 0.5, 0, -0.5, 0])
    np.testing.assert_allclose(selectivity(4, 2.0, 0.5), [1, 0, 0, 0, 0])  # τ itself is not above τ


@pytest.mark.parametrize("n", [0, 3])
def test_descriptors_without_words_leave_nothing(codebook, n):
    encoding = encode_assigned(np.zeros((n, 128), np.float32), np.full((n, 1), -1), codebook)
    assert len(encoding) == 0 and encoding.codes.shape == (0, 16)
