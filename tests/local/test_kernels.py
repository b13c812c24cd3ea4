"""SMK and ASMK against their equations typed as loops, and against the binary form where the two meet."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.embedding.codebook import Codebook
from resight.local.asmk import encode
from resight.local.kernels import WordVectors, asmk, meetings, select, similarity, smk


def made(count: int, dimension: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    return Codebook(made(1, 6, 100), made(5, 6, 101), "made")


def by_word(descriptors, codebook, k) -> dict[int, list[np.ndarray]]:
    """X_c as residuals, from the definition."""
    cells = {}
    for x in descriptors.astype(float):
        order = sorted(range(len(codebook)), key=lambda w: ((x - codebook.words[w]) ** 2).sum())
        for word in order[:k]:
            cells.setdefault(word, []).append(x - codebook.words[word])
    return cells


def sigma(u: float, alpha: float, tau: float) -> float:
    return math.copysign(abs(u) ** alpha, u) if u > tau else 0.0


def cosine(a, b) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def sum_smk(x, y, alpha, tau) -> float:
    return sum(sigma(cosine(a, b), alpha, tau) for c in x.keys() & y.keys() for a in x[c] for b in y[c])


def sum_asmk(x, y, alpha, tau) -> float:
    return sum(sigma(cosine(sum(x[c]), sum(y[c])), alpha, tau) for c in x.keys() & y.keys())


@pytest.mark.parametrize(("represent", "sums"), [(smk, sum_smk), (asmk, sum_asmk)])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("alpha", "tau"), [(3.0, 0.0), (1.0, -1.0), (2.0, 0.3)])
def test_similarities_follow_the_equations(codebook, represent, sums, k, alpha, tau):
    x, y = made(23, 6, 0), made(17, 6, 1)
    cells_x, cells_y = by_word(x, codebook, k), by_word(y, codebook, k)
    expected = sums(cells_x, cells_y, alpha, tau) / math.sqrt(
        sums(cells_x, cells_x, alpha, tau) * sums(cells_y, cells_y, alpha, tau)
    )
    found = similarity(represent(x, codebook, k), represent(y, codebook, k), alpha=alpha, threshold=tau)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_asmk_is_normalised_by_the_number_of_words(codebook):
    x, y = asmk(made(23, 6, 0), codebook), asmk(made(3, 6, 1), codebook)
    total = sum(
        sigma(float(x.vectors[i] @ y.vectors[j]), 3, 0) for i, j in zip(*meetings(x.words, y.words), strict=True)
    )
    assert similarity(x, y) == pytest.approx(total / math.sqrt(len(x) * len(y)), rel=1e-5)


def test_many_pairs_are_summed_in_blocks(codebook, monkeypatch):
    from resight.local import kernels

    x, y = smk(made(40, 6, 0), codebook), smk(made(30, 6, 1), codebook)
    whole = similarity(x, y)
    monkeypatch.setattr(kernels, "_PAIRS", 7)
    assert similarity(x, y) == pytest.approx(whole, rel=1e-6)


def test_the_signs_of_asmk_are_the_codes_of_its_binary_form(codebook):
    wide = Codebook(made(1, 16, 100), made(5, 16, 101), "made")
    x = made(60, 16, 0)
    full, binary = asmk(x, wide, 2), encode(x, wide, 2)
    np.testing.assert_array_equal(full.words, binary.words)
    np.testing.assert_array_equal(np.packbits(full.vectors >= 0, axis=1), binary.codes)


@given(seed=st.integers(0, 2**16), n=st.integers(1, 30))
def test_an_image_is_like_itself_and_likeness_is_symmetric(codebook, seed, n):
    for represent in (smk, asmk):
        x, y = represent(made(n, 6, seed), codebook, 2), represent(made(9, 6, seed + 1), codebook, 2)
        assert similarity(x, x) == pytest.approx(1)
        assert similarity(x, y) == pytest.approx(similarity(y, x), abs=1e-6)
        assert -1e-6 <= similarity(x, y) <= 1 + 1e-6


def test_selection_worked_by_hand():
    u = np.array([-0.5, 0.0, 0.5, 1.0], np.float32)
    np.testing.assert_allclose(select(u, 3, 0), [0, 0, 0.125, 1])
    np.testing.assert_allclose(select(u, 2, -1), [-0.25, 0, 0.25, 1])
    np.testing.assert_allclose(select(u, 1, 0.5), [0, 0, 0, 1])  # τ itself is not above τ


@given(x=st.lists(st.integers(0, 6), max_size=12), y=st.lists(st.integers(0, 6), max_size=12))
def test_meetings_are_all_pairs_of_equal_words(x, y):
    x, y = sorted(x), sorted(y)
    found = list(zip(*(v.tolist() for v in meetings(np.array(x, np.int32), np.array(y, np.int32))), strict=True))
    assert found == [(i, j) for j in range(len(y)) for i in range(len(x)) if x[i] == y[j]]


def test_nothing_is_like_nothing(codebook):
    nothing = asmk(np.empty((0, 6), np.float32), codebook)
    assert len(nothing) == 0 and similarity(nothing, nothing) == similarity(nothing, asmk(made(4, 6, 0), codebook)) == 0
    centroid = smk(codebook.words[2:3], codebook)  # its residual has no direction
    assert len(centroid) == 0


@pytest.mark.parametrize(("words", "shape"), [([2, 1], (2, 3)), ([1], (2, 3)), ([1, 2], (2,))])
def test_what_does_not_fit_is_refused(words, shape):
    with pytest.raises(ValueError, match=r"M×D|ascend"):
        WordVectors(np.array(words, np.int32), np.ones(shape, np.float32))
