"""Every index of codes against sorting all distances, and asymmetric scores against the sum they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.hashing import search
from resight.hashing.asymmetric import asymmetric_scores, nearest_asymmetric
from resight.hashing.codes import unpack
from resight.hashing.inverted import Inverted
from resight.hashing.multi_index import MultiIndex
from resight.hashing.search import Scan, distances_to


def clustered(n, bits, seed=0, flips=0.1):
    """Codes about a few centres, among which there are many at one distance, and some are equal."""
    rng = np.random.default_rng(seed)
    centres = rng.random((max(1, n // 20), bits)) > 0.5
    signs = centres[rng.integers(len(centres), size=n)] ^ (rng.random((n, bits)) < flips)
    return np.packbits(signs, axis=1, bitorder="little")


def by_sorting(asked, codes, k):
    """The k least (distance, row) of each query, by counting bits one by one."""
    distances = (unpack(asked)[:, None] != unpack(codes)[None]).sum(axis=2)
    pairs = [sorted(zip(line.tolist(), range(len(codes)), strict=True))[:k] for line in distances]
    found = np.array(pairs).reshape(len(asked), min(k, len(codes)), 2)
    return found[..., 0], found[..., 1]


def check(index, asked, codes, k):
    distances, rows = index.search(asked, k)
    assert distances.dtype == np.int32 and rows.dtype == np.int64
    wanted = by_sorting(asked, codes, k)
    np.testing.assert_array_equal(distances, wanted[0])
    np.testing.assert_array_equal(rows, wanted[1])


EXACT = {
    "scan": Scan,
    "multi-index": MultiIndex,
    "two tables": lambda codes: MultiIndex(codes, 2),
    "all lists": lambda codes: Inverted(codes, 5, probes=5, seed=0),
}


@pytest.mark.parametrize("bits", [16, 24, 64])
@pytest.mark.parametrize("name", list(EXACT))
def test_exact_indexes_equal_sorting(name, bits):
    codes, asked = clustered(400, bits), clustered(20, bits, seed=1)
    index = EXACT[name](codes)
    for k in (1, 7, 400, 1000):
        check(index, np.concatenate([asked, codes[:10]]), codes, k)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 70), st.sampled_from(list(EXACT)), st.integers(0, 99))
def test_exact_indexes_equal_sorting_at_any_size(n, width, k, name, seed):
    if (name == "two tables" and width > 8) or (name == "all lists" and n < 5):
        name = "scan"
    codes = clustered(n, 8 * width, seed, flips=0.05)
    check(EXACT[name](codes), clustered(3, 8 * width, seed + 1), codes, k)


def test_multi_index_answers_from_its_tables(monkeypatch):
    codes = clustered(3000, 64, flips=0.03)
    index = MultiIndex(codes, 6)

    def refuse(self, codes, k):
        raise AssertionError("a scan")

    monkeypatch.setattr(Scan, "search", refuse)
    check(index, codes[:40], codes, 5)
    with pytest.raises(AssertionError, match="a scan"):  # too far to be worth the buckets
        index.search(~codes[:1] & 0x5A, 2000)


def test_scan_in_parts(monkeypatch):
    codes, asked = clustered(300, 32), clustered(9, 32, seed=1)
    for held in (1, 8 * 33 * 20):  # one query at a time by sorting; two at a time by faiss for k = 10
        monkeypatch.setattr(search, "_HELD", held)
        monkeypatch.setattr(search, "_BLOCK", 64)
        check(Scan(codes), asked, codes, 10)


def test_a_memory_map_is_searched_as_it_lies(tmp_path):
    codes = clustered(200, 32)
    codes.tofile(tmp_path / "codes")
    mapped = np.memmap(tmp_path / "codes", np.uint8, mode="r", shape=codes.shape)
    scan = Scan(mapped)
    assert scan.codes is mapped
    check(scan, codes[:5], codes, 9)
    np.testing.assert_array_equal(distances_to(codes[3], mapped), (unpack(codes) != unpack(codes[3:4])).sum(axis=1))


def test_inverted_lists_miss_no_more_than_they_say():
    codes = clustered(2000, 64, flips=0.25)
    asked = codes[::67] ^ np.random.default_rng(1).integers(0, 2, (30, 8), np.uint8)
    exact = Scan(codes).search(asked, 10)
    shares = []
    for probes in (1, 4, 40):
        index = Inverted(codes, 40, probes=probes, seed=0)
        distances, rows = index.search(asked, 10)
        again = Inverted(codes, 40, probes=probes, seed=0).search(asked, 10)
        np.testing.assert_array_equal(rows, again[1])
        real = rows >= 0
        np.testing.assert_array_equal(
            distances[real], (unpack(asked)[:, None] != unpack(codes)[rows]).sum(axis=2)[real]
        )
        shares.append((distances == exact[0]).mean())
    assert 0.1 < shares[0] < shares[1] <= shares[2] == 1.0


def test_inverted_lists_that_hold_too_few():
    codes = clustered(100, 32, flips=0.3)
    distances, rows = Inverted(codes, 10, probes=2, seed=0).search(codes, 100)
    held = rows >= 0
    assert (held.sum(axis=1) > 0).all() and (held.sum(axis=1) < 100).all()
    assert (distances[~held] == 33).all() and (rows[~held] == -1).all()
    for at in range(100):
        near, count = rows[at][held[at]], held[at].sum()
        assert (rows[at, :count] == near).all() and len(set(near)) == count  # what is missing is the last
        pairs = list(zip(distances[at, :count].tolist(), near.tolist(), strict=True))
        assert pairs == sorted(pairs)
        assert [d for d, _ in pairs] == [(unpack(codes[at : at + 1]) != unpack(codes[[j]])).sum() for _, j in pairs]


def test_of_no_codes_and_no_queries():
    none, some = np.empty((0, 4), np.uint8), clustered(50, 32)
    for index in (Scan(none), MultiIndex(none)):
        distances, rows = index.search(some, 3)
        assert distances.shape == rows.shape == (50, 0)
    for make in EXACT.values():
        distances, rows = make(some).search(none, 3)
        assert distances.shape == rows.shape == (0, 3)


def test_what_is_refused():
    codes = clustered(50, 32)
    for make in EXACT.values():
        with pytest.raises(ValueError, match="Q×4 uint8"):
            make(codes).search(codes[:, :2], 3)
        with pytest.raises(ValueError, match="Q×4 uint8"):
            make(codes).search(codes.astype(np.int64), 3)
        with pytest.raises(ValueError, match="k must be at least 1, not 0"):
            make(codes).search(codes, 0)
        with pytest.raises(ValueError, match="N×B/8 uint8"):
            make(codes.astype(np.float32))
        with pytest.raises(ValueError, match="contiguous by rows"):
            make(codes[:, ::2])
    with pytest.raises(ValueError, match="tables must be 1 … 32 for 32 bits, not 33"):
        MultiIndex(codes, 33)
    with pytest.raises(ValueError, match="lists"):
        Inverted(codes, 51, seed=0)
    with pytest.raises(ValueError, match="probes"):
        Inverted(codes, probes=0, seed=0)


def scores_by_loops(f, codes):
    bits = unpack(codes)
    return [[sum(v if bit else -v for v, bit in zip(q, code, strict=True)) for code in bits] for q in f.astype(float)]


def test_asymmetric_scores_by_loops(monkeypatch):
    monkeypatch.setattr(search, "_BLOCK", 16)
    codes, f = clustered(50, 24), np.random.default_rng(0).normal(size=(6, 24)).astype(np.float32)
    found = asymmetric_scores(f, codes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scores_by_loops(f, codes), atol=1e-5)
    differs = (f > 0)[:, None] != unpack(codes)[None]
    lower_bound = (np.abs(f)[:, None] * differs).sum(axis=2)
    np.testing.assert_allclose(found, np.abs(f).sum(axis=1)[:, None] - 2 * lower_bound, atol=1e-5)


def test_of_signs_they_order_as_hamming_distance_does():
    codes = clustered(80, 32)
    f = np.where(unpack(codes[:5]), 1, -1)
    np.testing.assert_array_equal(asymmetric_scores(f, codes), 32 - 2 * by_sorting_all(codes[:5], codes))


def by_sorting_all(asked, codes):
    return (unpack(asked)[:, None] != unpack(codes)[None]).sum(axis=2)


@pytest.mark.parametrize("block", [7, 64, 1000])
@pytest.mark.parametrize("k", [1, 5, 300, 900])
def test_the_nearest_by_asymmetric_score(monkeypatch, block, k):
    monkeypatch.setattr(search, "_BLOCK", block)
    codes = clustered(300, 16, flips=0.02)  # most codes are there many times
    f = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    scores, rows = nearest_asymmetric(f, codes, k)
    every = asymmetric_scores(f, codes)
    wanted = [sorted(range(300), key=lambda row, line=line: (-line[row], row))[:k] for line in every]
    assert rows.dtype == np.int64 and scores.dtype == np.float32
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_array_equal(scores, np.take_along_axis(every, rows, axis=1))


def test_equal_codes_score_equally():
    codes = np.repeat(clustered(1, 1024), 1001, axis=0)
    f = np.random.default_rng(0).normal(size=(3, 1024)).astype(np.float32)
    assert (np.ptp(asymmetric_scores(f, codes), axis=1) == 0).all()


def test_asymmetric_of_nothing_and_what_is_refused():
    codes = clustered(5, 16)
    assert asymmetric_scores(np.zeros((0, 16)), codes).shape == (0, 5)
    assert nearest_asymmetric(np.zeros((2, 16)), codes[:0], 3)[1].shape == (2, 0)
    with pytest.raises(ValueError, match="Q×16"):
        asymmetric_scores(np.zeros((2, 8)), codes)
    with pytest.raises(ValueError, match="k must be"):
        nearest_asymmetric(np.zeros((2, 16)), codes, 0)
