"""Signing by medians and weighing by bits, worked by hand and against NumPy on real numbers."""

import numpy as np
import pytest

from resight.embedding.codebook import Codebook
from resight.errors import RecipeError
from resight.local.bow_filter import BowFilter
from resight.local.hamming_filter import HammingFilter, Signer


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    """Whole numbers, as uint8 descriptors are."""
    return np.random.default_rng(0).integers(0, 256, (1201, 32)).astype(np.uint8)


@pytest.fixture(scope="module")
def codebook(sample) -> Codebook:
    return Codebook.fit(sample, 7, seed=0, fitted_on="noise", cells=1)


@pytest.fixture(scope="module")
def signer(codebook, sample) -> Signer:
    return Signer.fit(codebook, sample, 24, seed=3, fitted_on="noise")


def test_each_bit_halves_the_training_features_of_each_word(signer, codebook, sample):
    encoding = HammingFilter(signer).encode(sample.astype(np.float32), codebook.assign(sample.astype(np.float32)))
    assert len(encoding) == 1201 and (np.diff(encoding.words) >= 0).all()
    np.testing.assert_allclose(signer.projection @ signer.projection.T, np.eye(24), atol=1e-4)
    for word in range(7):
        bits = np.unpackbits(encoding.codes[encoding.words == word], axis=1)
        assert len(bits) > 50
        assert (np.abs(bits.sum(axis=0, dtype=int) - len(bits) / 2) <= 0.5).all()


def test_a_feature_is_signed_alike_in_any_company(signer, codebook, sample):
    """Also those that are the median themselves, as one of each word with an odd number of them is for every bit."""
    descriptors = sample.astype(np.float32)
    words = codebook.assign(descriptors)
    measure = HammingFilter(signer)
    together = measure.encode(descriptors, words)
    row = np.argsort(words[:, 0], kind="stable")
    for step in (1, 3, 50):
        for place in range(0, 1201 - step, 200):
            own = row[place : place + step]
            alone = measure.encode(descriptors[own], words[own])
            np.testing.assert_array_equal(alone.codes, together.codes[place : place + step])
            np.testing.assert_array_equal(alone.words, together.words[place : place + step])


def test_a_feature_has_a_signature_of_its_own_at_each_of_its_words(signer, codebook, sample):
    descriptors = sample[:4].astype(np.float32)
    words = np.array([[0, 3], [3, -1], [-1, -1], [3, 0]])
    encoding = HammingFilter(signer).encode(descriptors, words)
    expected = sorted(
        ((w, row), np.packbits(signer.projection.astype(float) @ descriptors[row] > signer.thresholds[w]).tolist())
        for row in range(4)
        for w in words[row]
        if w >= 0
    )
    assert encoding.words.tolist() == [w for (w, _), _ in expected]
    assert encoding.codes.tolist() == [code for _, code in expected]


def test_a_word_without_training_features_has_its_own_projection_as_medians(codebook, sample, signer):
    near = sample[codebook.assign(sample.astype(np.float32))[:, 0] != 2]
    fitted = Signer.fit(codebook, near, 24, seed=3, fitted_on="others")
    np.testing.assert_allclose(fitted.thresholds[2], signer.projection @ codebook.words[2], rtol=1e-5)
    np.testing.assert_array_equal(np.delete(fitted.thresholds, 2, axis=0), np.delete(signer.thresholds, 2, axis=0))
    none = Signer.fit(codebook, sample[:0], 24, seed=3, fitted_on="nothing")
    np.testing.assert_allclose(none.thresholds, codebook.words @ signer.projection.T, rtol=1e-4)


def weights(signer, **options) -> list[float]:
    """k of codes that differ in 0, 1, 2, 3 and 4 bits."""
    measure = HammingFilter(signer, **options)
    codes = measure.comparable(np.array([[0, 0, 0], [1, 0, 0], [1, 0, 8], [7, 0, 0], [7, 0, 8]], np.uint8))
    return measure.compare(np.repeat(codes[:1], 5, axis=0), codes).tolist()


def test_weights_worked_by_hand(signer):
    assert weights(signer, threshold=3, sigma=0.0) == [1, 1, 1, 1, 0]
    assert weights(signer, threshold=2, sigma=2.0) == pytest.approx([1, np.e**-0.25, np.e**-1, 0, 0])
    assert weights(signer, threshold=24, sigma=1.0) == pytest.approx([1, np.e**-1, np.e**-4, np.e**-9, np.e**-16])


def test_a_signer_is_loaded_only_for_its_own_codebook(signer, codebook, sample, tmp_path):
    path = tmp_path / "hamming.safetensors"
    signer.save(path)
    loaded = Signer.load(path, codebook)
    np.testing.assert_array_equal(loaded.projection, signer.projection)
    np.testing.assert_array_equal(loaded.thresholds, signer.thresholds)
    assert (loaded.codebook, loaded.fitted_on) == (codebook.fingerprint, "noise")
    other = Codebook.fit(sample, 7, seed=1, fitted_on="noise", cells=1)
    with pytest.raises(RecipeError, match=r"hamming\.safetensors: its medians are of another codebook's words"):
        Signer.load(path, other)
    codebook.save(path)
    with pytest.raises(RecipeError, match="holds a codebook artefact where a hamming-signer is needed"):
        Signer.load(path, codebook)


def test_more_bits_than_dimensions_are_refused(codebook, sample):
    with pytest.raises(RecipeError, match="32 dimensions have no 40 orthogonal projections"):
        Signer.fit(codebook, sample, 40, seed=0, fitted_on="-")


@pytest.mark.parametrize("bad", [np.zeros((12, 32)), np.zeros((0, 32)), np.zeros(32)])
def test_projections_that_are_no_whole_bytes_are_refused(signer, bad):
    with pytest.raises(ValueError, match="projection must be B×D"):
        Signer(bad, signer.thresholds, "-", "-")


def test_term_counts_worked_by_hand():
    measure = BowFilter()
    encoding = measure.encode(np.zeros((4, 8), np.float32), np.array([[5, 2], [5, -1], [2, 300], [5, -1]]))
    assert encoding.words.tolist() == [2, 5, 300] and measure.comparable(encoding.codes).tolist() == [2, 3, 1]
    tf = measure.comparable(encoding.codes)
    assert measure.compare(tf, tf[::-1]).tolist() == [2, 9, 2] and measure.mass(tf).tolist() == [2, 3, 1]
    root = BowFilter(root=True)
    np.testing.assert_allclose(root.compare(tf, tf), [2, 3, 1])
    np.testing.assert_allclose(root.mass(tf), np.sqrt([2, 3, 1]))


def test_a_count_that_does_not_fit_stays_the_largest():
    measure = BowFilter()
    encoding = measure.encode(np.empty((0, 8), np.float32), np.full((70_000, 1), 4))
    assert encoding.words.tolist() == [4] and measure.comparable(encoding.codes).tolist() == [65_535]
    assert len(measure.encode(np.empty((0, 8), np.float32), np.empty((0, 1), np.int64))) == 0
