"""Binary VLAD against loops over its definition, and its vectors against its codes."""

import numpy as np
import pytest

from resight.embedding.binary_vlad import BinaryVlad
from resight.embedding.codebook import Codebook
from resight.embedding.embedding import Embedding
from resight.errors import RecipeError


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def binary(dimension: int = 11) -> BinaryVlad:  # 11 bits do not fill their bytes
    return BinaryVlad(Codebook(np.zeros((1, dimension), np.float32), draw(6, dimension, seed=9), "noise"))


def signs(features, words):
    """Word → signs of its summed residuals."""
    sums: dict[int, np.ndarray] = {}
    for x in features.astype(float):
        word = int(((words - x) ** 2).sum(axis=1).argmin())
        sums[word] = sums.get(word, 0) + x - words[word]
    return {word: np.where(total >= 0, 1, -1) for word, total in sums.items()}


def test_similarities_are_the_loops_and_the_cosines_of_the_vectors():
    vlad = binary()
    sets = [draw(n, 11, seed=n) for n in (1, 3, 5, 40)]
    held = [signs(features, vlad.codebook.words.astype(float)) for features in sets]
    expected = [
        [sum((a[w] == b[w]).sum() - (a[w] != b[w]).sum() for w in a.keys() & b) / (11 * (len(a) * len(b)) ** 0.5)
         for b in held]
        for a in held
    ]  # fmt: skip
    codes = vlad.encode_sets(sets)
    np.testing.assert_allclose(vlad.similarity(codes, codes), expected, atol=1e-9)
    vectors = vlad.transform_sets(sets)
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-6)
    np.testing.assert_allclose(vlad.transform(sets[1]), vectors[1])


def test_features_on_their_words_and_no_features_give_zero():
    vlad: Embedding = binary()
    assert isinstance(vlad, BinaryVlad)
    sets = [vlad.codebook.words[[1, 1]], np.empty((0, 11), np.float32), draw(4, 11)]
    vectors = vlad.transform_sets(sets)
    assert vectors.shape == (3, vlad.dimension) == (3, 66) and vectors.dtype == np.float32
    assert not vectors[:2].any() and vectors[2].any()
    codes = vlad.encode_sets(sets)
    np.testing.assert_array_equal(vlad.similarity(codes, codes)[:2], 0)
    assert len(vlad.encode_sets([])) == 0 and vlad.transform_sets([]).shape == (0, 66)


def test_it_survives_the_disk(tmp_path):
    vlad, path = BinaryVlad.fit(draw(200, 8), 5, seed=0, fitted_on="noise"), tmp_path / "v.safetensors"
    assert vlad.save(path) == vlad.fingerprint != binary().fingerprint
    loaded = BinaryVlad.load(path)
    assert (loaded.fingerprint, loaded.fitted_on, loaded.input_dimension) == (vlad.fingerprint, "noise", 8)
    np.testing.assert_array_equal(loaded.transform(draw(9, 8)), vlad.transform(draw(9, 8)))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RecipeError, match=r"v\.safetensors"):
        BinaryVlad.load(path)
