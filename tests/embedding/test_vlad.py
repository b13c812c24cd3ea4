"""VLAD against loops over its equations, and sets whose vector is known."""

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from resight.embedding.codebook import Codebook
from resight.embedding.embedding import Embedding
from resight.embedding.vlad import NORMALISATIONS, Vlad
from resight.errors import RecipeError


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def codebook(words: int = 7, dimension: int = 5) -> Codebook:
    return Codebook(np.zeros((1, dimension), np.float32), draw(words, dimension, seed=9), "noise")


def by_loops(features, words, normalisations, alpha):
    sums = np.zeros(words.shape)
    for x in features.astype(float):
        nearest = min(range(len(words)), key=lambda c: float(np.sum((x - words[c]) ** 2)))
        residual = x - words[nearest]
        sums[nearest] += residual / np.linalg.norm(residual) if "residual" in normalisations else residual
    if "power" in normalisations:
        sums = np.sign(sums) * np.abs(sums) ** alpha
    if "intra" in normalisations:
        for row in sums:
            row /= np.linalg.norm(row) or 1
    return sums.ravel() / np.linalg.norm(sums)


@pytest.mark.parametrize("chosen", [c for n in range(4) for c in combinations(NORMALISATIONS, n)])
def test_it_is_the_loop_over_its_equations(chosen):
    vlad = Vlad(codebook(), chosen, alpha=0.3)
    sets = [draw(n, 5, seed=n) for n in (30, 1, 200)]
    expected = [by_loops(features, vlad.codebook.words.astype(float), chosen, 0.3) for features in sets]
    np.testing.assert_allclose(vlad.transform_sets(sets), expected, atol=2e-6)
    np.testing.assert_allclose(vlad.transform(sets[2]), expected[2], atol=2e-6)


def test_features_on_their_words_and_no_features_give_zero():
    vlad = Vlad(codebook(), NORMALISATIONS)
    sets = [vlad.codebook.words[[3, 3, 0]], np.empty((0, 5), np.float32), draw(3, 5)]
    vectors = vlad.transform_sets(sets)
    assert not vectors[:2].any() and vectors[2].any()
    assert vectors.dtype == np.float32 and vectors.shape == (3, vlad.dimension) == (3, 35)
    assert vlad.transform_sets([]).shape == (0, 35)


def test_order_and_repetition_of_features_do_not_matter():
    vlad, features = Vlad(codebook(), ("intra", "power")), draw(40, 5)
    vector = vlad.transform(features)
    np.testing.assert_allclose(vlad.transform(features[::-1]), vector, atol=1e-6)
    np.testing.assert_allclose(vlad.transform(np.repeat(features, 3, axis=0)), vector, atol=1e-6)


def test_a_set_does_not_depend_on_those_beside_it():
    vlad = Vlad(codebook())
    sets = [draw(500, 5, seed=s) for s in range(200)]  # more features than are handled at a time
    together = vlad.transform_sets(sets)
    np.testing.assert_allclose(together[[0, 131, 199]], [vlad.transform(sets[i]) for i in (0, 131, 199)], atol=1e-6)


def test_the_fitted_words_are_means_of_their_features():
    features = draw(400, 3) + 10 * np.eye(4, 3, dtype=np.float32)[np.arange(400) % 4]
    vlad: Embedding = Vlad.fit(features, 4, seed=0, fitted_on="four heaps")
    assert isinstance(vlad, Vlad) and vlad.fitted_on == "four heaps" and vlad.input_dimension == 3
    nearest = cdist(features, vlad.codebook.words).argmin(axis=1)
    means = [features[nearest == w].mean(axis=0) for w in range(4)]
    np.testing.assert_allclose(vlad.codebook.words, means, atol=1e-2)
    np.testing.assert_array_equal(
        vlad.codebook.words, Vlad.fit(features, 4, seed=0, fitted_on="four heaps").codebook.words
    )


def test_it_survives_the_disk_and_its_fingerprint_is_of_words_and_options(tmp_path):
    vlad, path = Vlad(codebook(), ("residual", "intra")), tmp_path / "v.safetensors"
    assert vlad.save(path) == vlad.fingerprint
    loaded = Vlad.load(path)
    assert (loaded.fingerprint, loaded.fitted_on) == (vlad.fingerprint, "noise")
    np.testing.assert_array_equal(loaded.transform(draw(30, 5)), vlad.transform(draw(30, 5)))
    others = [Vlad(codebook(), ("intra",)), Vlad(codebook(), ("power",)), Vlad(codebook(), ("power",), 0.2)]
    others.append(Vlad(codebook(8), ("residual", "intra")))
    assert len({vlad.fingerprint, *(other.fingerprint for other in others)}) == 5
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RecipeError, match=r"v\.safetensors"):
        Vlad.load(path)


def test_what_does_not_fit_is_refused():
    for wrong in (draw(3, 4), np.full((3, 5), np.nan, np.float32), draw(5)):
        with pytest.raises(ValueError, match=r"set 0 must be n×5|finite"):
            Vlad(codebook()).transform(wrong)
    with pytest.raises(ValueError, match="normalisations"):
        Vlad(codebook(), ("ell2",))
    with pytest.raises(ValueError, match="alpha"):
        Vlad(codebook(), alpha=0)
