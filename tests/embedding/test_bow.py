"""Bags of words against loops over their equations, and counts done by hand."""

import numpy as np
import pytest

from resight.embedding.bow import Bow
from resight.embedding.codebook import Codebook
from resight.embedding.embedding import Embedding
from resight.errors import RecipeError

# Five words on a line at 0, 10, 20, 30, 40, so that the word of a feature is read off its value.
LINE = Codebook(np.zeros((1, 1), np.float32), np.arange(0, 50, 10, dtype=np.float32)[:, None], "a line")


def at(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_counts_by_hand():
    sets = [at(1, -2, 11, 39), at(), at(20)]
    expected = [np.array([2, 1, 0, 0, 1]) / 6**0.5, np.zeros(5), [0, 0, 1, 0, 0]]
    vectors = Bow(LINE).transform_sets(sets)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert vectors.dtype == np.float32
    rooted = Bow(LINE, root=True).transform(sets[0])
    np.testing.assert_allclose(rooted, np.sqrt([2, 1, 0, 0, 1]) / 2, atol=1e-6)
    assert Bow(LINE).transform_sets([]).shape == (0, 5)


def test_idf_by_hand():
    sets = [at(0, 0, 10), at(0, 20), at(0), at(0, 10)]
    bow = Bow(LINE).fit_idf(iter(sets))
    np.testing.assert_allclose(bow.idf, [0, np.log(2), np.log(4), 0, 0], atol=1e-6)  # in all; 2 of 4; 1; none; none
    weighted = np.array([0, 2 * np.log(2), np.log(4), 0, 0])
    np.testing.assert_allclose(bow.transform(at(0, 10, 10, 20, 30)), weighted / np.linalg.norm(weighted), atol=1e-6)
    assert not bow.transform(at(0, 30)).any()
    with pytest.raises(RecipeError, match="give more images"):
        Bow(LINE).fit_idf([])


@pytest.mark.parametrize("sigma", [4.0, None])
def test_soft_assignment_is_the_loop_over_its_equation(sigma):
    codebook = Codebook(np.zeros((1, 3), np.float32), draw(12, 3, seed=1), "noise")
    features = draw(30, 3)
    expected = np.zeros((30, 12))
    for row, x in enumerate(features.astype(float)):
        squared = ((codebook.words - x) ** 2).sum(axis=1)
        scale = squared.min() if sigma is None else sigma**2
        for word in np.argsort(squared)[:4]:
            expected[row, word] = np.exp(-squared[word] / (2 * scale))
    expected /= expected.sum(axis=1, keepdims=True)
    bow = Bow(codebook, assignments=4, sigma=sigma)
    np.testing.assert_allclose(bow.memberships(features), expected, atol=1e-5)
    total = expected.sum(axis=0)
    np.testing.assert_allclose(bow.transform(features), total / np.linalg.norm(total), atol=1e-5)


def test_soft_assignment_of_a_feature_on_a_word_or_far_from_all():
    np.testing.assert_array_equal(Bow(LINE, assignments=2).memberships(at(10)), [[0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(Bow(LINE, assignments=2, sigma=1).memberships(at(1e4)), [[0, 0, 0, 0, 1]])
    np.testing.assert_allclose(Bow(LINE, assignments=2).memberships(at(5)), [[0.5, 0.5, 0, 0, 0]], atol=1e-6)
    # More assignments than words: all words count, once each.
    np.testing.assert_allclose(Bow(LINE, assignments=9, sigma=1e9).memberships(at(5)), np.full((1, 5), 0.2), atol=1e-6)


def test_words_that_no_probe_finds_do_not_count():
    far = Codebook(np.array([[0], [1000]], np.float32), at(1000), "-", probes=1)
    assert not Bow(far).transform(at(1)).any()
    assert not Bow(far, assignments=2).memberships(at(1)).any()
    assert Bow(far, assignments=2).transform(at(999)).tolist() == [1]


def test_sparse_rows_are_the_dense_ones_also_over_several_batches():
    codebook = Codebook.fit(draw(3000, 6), 300, seed=0, fitted_on="noise")
    sets = [draw(900, 6, seed=s) for s in range(150)]
    bow = Bow(codebook).fit_idf(sets)
    rows = bow.transform_sparse(iter(sets))
    assert rows.shape == (150, 300) and rows.dtype == np.float32 and rows.has_canonical_format
    for place in (0, 72, 73, 149):
        counts = np.bincount(codebook.assign(sets[place])[:, 0], minlength=300) * bow.idf
        np.testing.assert_allclose(rows[[place]].toarray()[0], counts / np.linalg.norm(counts), atol=1e-6)
    held = (np.array([np.bincount(codebook.assign(s)[:, 0], minlength=300) for s in sets]) > 0).sum(axis=0)
    np.testing.assert_allclose(bow.idf, np.log(150 / held), atol=1e-6)


def test_it_survives_the_disk_and_its_fingerprint_is_of_words_and_options(tmp_path):
    path = tmp_path / "b.safetensors"
    for bow in (Bow(LINE).fit_idf([at(0), at(10)]), Bow(LINE, assignments=3, sigma=7.5, root=True)):
        assert bow.save(path) == bow.fingerprint
        loaded: Embedding = Bow.load(path)
        assert (loaded.fingerprint, loaded.fitted_on) == (bow.fingerprint, "a line")
        assert (loaded.dimension, loaded.input_dimension) == (5, 1)
        np.testing.assert_array_equal(loaded.transform(at(0, 12, 30)), bow.transform(at(0, 12, 30)))
    options = [{}, {"idf": np.ones(5, np.float32)}, {"assignments": 2}, {"assignments": 2, "sigma": 1}, {"root": True}]
    assert len({Bow(LINE, **o).fingerprint for o in options}) == 5
    path.write_bytes(b"no artefact")
    with pytest.raises(RecipeError, match=r"b\.safetensors"):
        Bow.load(path)


def test_fitting_follows_its_seed():
    fitted = Bow.fit(draw(500, 4), 20, seed=1, fitted_on="noise", assignments=2, root=True)
    assert (fitted.dimension, fitted.assignments, fitted.root, fitted.fitted_on) == (20, 2, True, "noise")
    assert fitted.fingerprint == Bow.fit(draw(500, 4), 20, seed=1, fitted_on="-", assignments=2, root=True).fingerprint
    assert fitted.fingerprint != Bow.fit(draw(500, 4), 20, seed=2, fitted_on="-", assignments=2, root=True).fingerprint


def test_what_does_not_fit_is_refused():
    for options in ({"idf": np.ones(4, np.float32)}, {"assignments": 0}, {"sigma": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            Bow(LINE, **options)
    with pytest.raises(ValueError, match="set 0 must be n×1"):
        Bow(LINE).transform(draw(3, 2))
