"""Hamming embedding against loops over its definition."""

import numpy as np
import pytest

from resight.embedding.codebook import Codebook
from resight.embedding.hamming import HammingEmbedding, orthogonal
from resight.errors import RecipeError


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def embedding() -> HammingEmbedding:
    return HammingEmbedding.fit(draw(3000, 32), 9, seed=0, fitted_on="noise", bits=24, threshold=9, sigma=5.0)


def bits_of(embedding, x):
    word = int(((embedding.codebook.words - x) ** 2).sum(axis=1).argmin())
    return word, embedding.projection @ x > embedding.thresholds[word]


def by_loops(embedding, a, b, idf):
    """(row of a, row of b, differing bits) of all matches, and the similarity."""
    matches, score = [], 0.0
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            (word, left), (other, right) = bits_of(embedding, x), bits_of(embedding, y)
            differing = int((left != right).sum())
            if word == other and differing <= embedding.threshold:
                matches.append((i, j, differing))
                weight = 1.0 if embedding.sigma is None else np.exp(-(differing**2) / embedding.sigma**2)
                score += weight * idf[word] ** 2
    norms = [
        np.linalg.norm(sum((np.eye(len(idf))[bits_of(embedding, x)[0]] for x in s), np.zeros(len(idf))) * idf)
        for s in (a, b)
    ]
    return matches, score / (norms[0] * norms[1])


def test_matches_and_similarity_are_the_loops(embedding):
    a = draw(30, 32, seed=1)
    b = np.concatenate([draw(20, 32, seed=2), a[:12] + 0.1 * draw(12, 32, seed=3)])
    idf = np.random.default_rng(4).uniform(0.1, 2, 9).astype(np.float32)
    pairs, differing = embedding.match(embedding.encode(a), embedding.encode(b))
    expected, score = by_loops(embedding, a, b, idf)
    assert sorted((*map(int, pair), int(h)) for pair, h in zip(pairs, differing, strict=True)) == sorted(expected)
    assert len(expected) > 12
    assert embedding.similarity(*map(embedding.encode, (a, b)), idf) == pytest.approx(score, rel=1e-5)
    plain = HammingEmbedding(embedding.codebook, embedding.projection, embedding.thresholds, 9, None)
    found = plain.similarity(plain.encode(a), plain.encode(b))
    assert found == pytest.approx(by_loops(plain, a, b, np.ones(9))[1], rel=1e-5)


def test_each_bit_halves_the_features_of_each_word(embedding):
    codes = embedding.encode(draw(3000, 32))
    for word in range(9):
        bits = np.unpackbits(codes.codes[codes.words == word], axis=1)
        assert np.abs(bits.mean(axis=0) - 0.5).max() <= 0.5 / len(bits) + 1e-9


def test_a_word_without_features_has_its_own_projection_as_medians():
    # 100 features at two points: k-means of four words leaves some that no feature is nearest to.
    features = np.repeat(draw(2, 8), 50, axis=0)
    embedding = HammingEmbedding.fit(features, 4, seed=0, fitted_on="-", bits=8, threshold=2)
    empty = np.setdiff1d(np.arange(4), embedding.codebook.assign(features)[:, 0])
    assert len(empty) == 2
    expected = embedding.codebook.words[empty] @ embedding.projection.T
    np.testing.assert_allclose(embedding.thresholds[empty], expected, atol=1e-6)


def test_the_projection_is_orthogonal_and_follows_its_seed():
    matrix = orthogonal(20, 5).astype(float)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(20), atol=1e-6)
    np.testing.assert_array_equal(orthogonal(20, 5), orthogonal(20, 5))
    assert not np.allclose(orthogonal(20, 5), orthogonal(20, 6))


def test_many_sets_are_as_one_by_one_and_no_features_match_nothing(embedding):
    sets = [draw(12, 32, seed=1), np.empty((0, 32), np.float32), draw(300, 32, seed=2)]
    encoded = embedding.encode_sets(sets)
    for one, features in zip(encoded, sets, strict=True):
        alone = embedding.encode(features)
        for name in ("words", "codes", "rows"):
            np.testing.assert_array_equal(getattr(one, name), getattr(alone, name))
    assert embedding.similarity(encoded[0], encoded[1]) == 0
    assert embedding.match(encoded[1], encoded[0])[0].shape == (0, 2)


def test_it_survives_the_disk(embedding, tmp_path):
    path = tmp_path / "h.safetensors"
    assert embedding.save(path) == embedding.fingerprint
    loaded = HammingEmbedding.load(path)
    assert (loaded.fingerprint, loaded.fitted_on, loaded.bits) == (embedding.fingerprint, "noise", 24)
    np.testing.assert_array_equal(loaded.encode(draw(9, 32)).codes, embedding.encode(draw(9, 32)).codes)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RecipeError, match=r"h\.safetensors"):
        HammingEmbedding.load(path)


def test_what_does_not_fit_is_refused(embedding):
    with pytest.raises(RecipeError, match="orthogonal projections"):
        HammingEmbedding.fit(draw(100, 8), 4, seed=0, fitted_on="-", bits=16)
    codebook = Codebook(draw(1, 8), draw(3, 8), "-")
    for projection, thresholds, threshold in (
        (draw(7, 8), draw(3, 7), 2),
        (draw(8, 7), draw(3, 8), 2),
        (draw(8, 8), draw(2, 8), 2),
        (draw(8, 8), draw(3, 8), 9),
    ):
        with pytest.raises(ValueError, match="must be"):
            HammingEmbedding(codebook, projection, thresholds, threshold)
    with pytest.raises(ValueError, match="idf must be"):
        embedding.similarity(*[embedding.encode(draw(3, 32))] * 2, np.ones(8, np.float32))
    with pytest.raises(ValueError, match="set 0 must be n×32"):
        embedding.encode(draw(3, 8))
