"""Assignment against an exhaustive search, k-means against its own optimality condition, shares against arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from resight.embedding.codebook import Codebook, _apportion, choose_words
from resight.errors import RecipeError


def words(n: int, dimension: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)


@pytest.mark.parametrize(
    ("descriptors", "expected"), [(0, 1), (31, 1), (32, 2), (1023, 32), (1024, 64), (10**9, 65536)]
)
def test_the_size_leaves_sixteen_descriptors_a_word(descriptors, expected):
    assert choose_words(descriptors) == expected


def test_with_all_cells_probed_assignment_is_exhaustive_search():
    codebook = Codebook(words(6, 8, 0), words(50, 8, 1), "noise", probes=6)
    descriptors = words(200, 8, 2)
    distance = cdist(descriptors.astype(float), codebook.words.astype(float))
    np.testing.assert_array_equal(codebook.assign(descriptors, 5), np.argsort(distance, axis=1)[:, :5])
    # Asked for more words than there are, it gives them all and says −1 for the rest.
    every = codebook.assign(descriptors[:3], 53)
    np.testing.assert_array_equal(np.sort(every[:, :50]), [np.arange(50)] * 3)
    assert (every[:, 50:] == -1).all()


def test_with_some_cells_probed_the_nearest_word_in_them_is_found():
    codebook = Codebook(words(6, 8, 0), words(50, 8, 1), "noise", probes=2)
    descriptors = words(100, 8, 2)
    cell_of_word = cdist(codebook.words, codebook.coarse).argmin(axis=1)
    probed = np.argsort(cdist(descriptors, codebook.coarse), axis=1)[:, :2]
    for descriptor, cells, found in zip(descriptors, probed, codebook.assign(descriptors)[:, 0], strict=True):
        candidates = np.flatnonzero(np.isin(cell_of_word, cells))
        nearest = candidates[cdist(descriptor[None], codebook.words[candidates]).argmin()] if len(candidates) else -1
        assert found == nearest


def test_no_descriptors_no_words():
    assert Codebook(words(1, 8, 0), words(1, 8, 0), "-").assign(np.empty((0, 8), np.float32), 3).shape == (0, 3)


def test_the_words_quantise_nearly_as_well_as_one_level_of_k_means():
    descriptors = np.random.default_rng(0).integers(0, 256, (2000, 8)).astype(np.uint8)
    codebook = Codebook.fit(descriptors, 64, seed=0, fitted_on="noise")
    assert (len(codebook), codebook.dimension, codebook.fitted_on) == (64, 8, "noise")
    flat = KMeans(64, n_init=1, random_state=0).fit(descriptors.astype(float)).cluster_centers_
    ours, theirs = (
        (cdist(descriptors.astype(float), centres.astype(float)).min(axis=1) ** 2).mean()
        for centres in (codebook.words, flat)
    )
    drawn = (cdist(descriptors.astype(float), descriptors[:64].astype(float)).min(axis=1) ** 2).mean()
    assert ours < 1.15 * theirs < 0.8 * drawn


def test_fitting_is_repeatable_and_follows_the_seed():
    descriptors = np.random.default_rng(0).integers(0, 256, (600, 16)).astype(np.uint8)
    one, two, other = (Codebook.fit(descriptors, 37, seed=s, fitted_on="noise") for s in (5, 5, 6))
    np.testing.assert_array_equal(one.words, two.words)
    assert len(other) == 37 and not np.array_equal(one.words, other.words)


def test_as_many_words_as_descriptors_are_the_descriptors():
    descriptors = np.random.default_rng(0).integers(0, 256, (20, 8)).astype(np.uint8)
    fitted = Codebook.fit(descriptors, 20, seed=0, fitted_on="-").words
    assert sorted(map(tuple, fitted)) == sorted(map(tuple, descriptors.astype(np.float32)))


@pytest.mark.parametrize("count", [0, 21])
def test_too_many_words_or_none_are_refused(count):
    with pytest.raises(ValueError, match="give more images"):
        Codebook.fit(np.zeros((20, 8), np.uint8), count, seed=0, fitted_on="-")


def test_a_codebook_survives_the_disk(tmp_path):
    codebook = Codebook(words(6, 8, 0), words(50, 8, 1), "noise, seed 1", probes=3)
    codebook.save(tmp_path / "c.safetensors")
    loaded = Codebook.load(tmp_path / "c.safetensors")
    assert (loaded.fitted_on, loaded.probes) == ("noise, seed 1", 3)
    descriptors = words(100, 8, 2)
    np.testing.assert_array_equal(loaded.assign(descriptors, 4), codebook.assign(descriptors, 4))


def test_a_missing_or_damaged_file_is_named(tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(RecipeError, match=r"c\.safetensors"):
        Codebook.load(path)
    Codebook(words(2, 8, 0), words(4, 8, 1), "-").save(path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(RecipeError, match=r"c\.safetensors"):
        Codebook.load(path)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any), st.integers(1, 200))
def test_shares_are_proportional_whole_and_within_bounds(counts, total):
    counts = np.array(counts)
    seats = _apportion(counts, total)
    assert seats.sum() == min(total, counts.sum())
    assert (seats >= 0).all() and (seats <= counts).all()
    quota = counts * total / counts.sum()
    if total <= counts.sum():  # then no quota is above its count, and largest remainder stays within a seat of it
        assert (np.abs(seats - quota) < 1 + 1e-9).all()


def test_shares_worked_by_hand():
    # Quotas 1.5, 3.0 and 4.5 of 9 seats; the two halves tie for the last seat, and the first has it.
    np.testing.assert_array_equal(_apportion(np.array([3, 6, 9]), 9), [2, 3, 4])


def test_one_cell_is_plain_k_means_with_exhaustive_assignment():
    descriptors = words(2000, 8, 0)
    codebook = Codebook.fit(descriptors, 50, seed=0, fitted_on="noise", cells=1)
    assert len(codebook.coarse) == 1
    distance = cdist(descriptors, codebook.words)
    np.testing.assert_array_equal(codebook.assign(descriptors)[:, 0], distance.argmin(axis=1))
    flat = KMeans(50, n_init=1, random_state=0).fit(descriptors)
    assert (distance.min(axis=1) ** 2).sum() < 1.05 * flat.inertia_
    with pytest.raises(ValueError, match="cells"):
        Codebook.fit(descriptors, 50, seed=0, fitted_on="-", cells=51)


def test_more_descriptors_than_are_handled_at_a_time_are_assigned_alike():
    codebook = Codebook(words(9, 4, 0), words(90, 4, 1), "noise", probes=3)
    descriptors = words(66_000, 4, 2)
    together = codebook.assign(descriptors, 2)
    assert together.shape == (66_000, 2)
    np.testing.assert_array_equal(together[65_000:], codebook.assign(descriptors[65_000:], 2))
    np.testing.assert_array_equal(together[:500], codebook.assign(descriptors[:500], 2))


def test_the_fingerprint_is_of_the_centroids():
    codebook = Codebook(words(2, 4, 0), words(9, 4, 1), "noise")
    assert codebook.fingerprint == Codebook(words(2, 4, 0), words(9, 4, 1), "other").fingerprint
    assert codebook.fingerprint != Codebook(words(2, 4, 0), words(9, 4, 2), "noise").fingerprint
