"""The index over global descriptors: what it finds, how it grows and shrinks, and what lies on disk."""

import numpy as np
import pytest

from resight.errors import CollectionError
from resight.store.vector_index import IndexChoice, VectorIndex

KINDS = ("SQfp16", "SQ8", "PQ8x4fs", "RaBitQfs", "IVF16,SQ8", "IVF16,PQ8x4fs", "IVF16,RaBitQfs", "HNSW16,SQ8")


def crowded(seed: int, n: int, d: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(60, d))
    x = centres[rng.integers(0, 60, n)] + 0.5 * rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    return crowded(1, 3000)


@pytest.fixture(scope="module")
def ids():
    return np.arange(3000, dtype=np.int64) * 3 + 7


def blocks(ids, vectors, size=700):
    for start in range(0, len(ids), size):
        yield ids[start : start + size], vectors[start : start + size]


@pytest.fixture(scope="module", params=KINDS)
def index(request, ids, vectors):
    return VectorIndex.build(IndexChoice(request.param, 5, 16), vectors[:2000], blocks(ids, vectors))


def test_candidates_hold_the_nearest(index, ids, vectors):
    queries = crowded(2, 40)
    nearest = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
    found = index.candidates(queries, 100)
    assert found.shape == (40, 100)
    hits = [len(np.intersect1d(ids[truth], row)) for truth, row in zip(nearest, found, strict=True)]
    assert np.mean(hits) > 9.5


def test_it_grows_as_if_built_at_once_and_stays_as_it_was(index, ids, vectors):
    queries = crowded(3, 10)
    half = VectorIndex.build(index.choice, vectors[:2000], blocks(ids[:1500], vectors[:1500]))
    before = half.candidates(queries, 20)
    grown = half.extended(blocks(ids[1500:], vectors[1500:]))
    assert (len(half), len(grown), grown.newest) == (1500, 3000, ids[-1])
    np.testing.assert_array_equal(half.candidates(queries, 20), before)
    if not index.choice.graph:  # a graph depends on what was there when an image came
        np.testing.assert_array_equal(np.sort(grown.candidates(queries, 20)), np.sort(index.candidates(queries, 20)))


def test_only_what_is_kept_is_found(index, ids, vectors):
    kept = index.without(blocks(ids[::5], vectors[::5]))
    found = kept.candidates(crowded(4, 10), 50)
    assert len(kept) == 600 and np.isin(found, ids[::5]).all()


def test_what_is_saved_is_found_again(index, tmp_path):
    queries = crowded(5, 10)
    index.save(tmp_path / "i")
    opened = VectorIndex.open(tmp_path / "i", index.choice)
    np.testing.assert_array_equal(opened.candidates(queries, 30), index.candidates(queries, 30))
    assert (len(opened), opened.newest, opened.dimension) == (len(index), index.newest, 32)
    assert 0.8 < index.bytes / sum(f.stat().st_size for f in (tmp_path / "i").iterdir()) < 1.25


def test_more_candidates_than_there_are(index, ids):
    found = index.candidates(crowded(6, 2), 3005)
    assert (found[:, 3000:] == -1).all()
    if not index.choice.cells and not index.choice.graph:
        np.testing.assert_array_equal(np.sort(found[0, :3000]), ids)


def test_more_effort_finds_more(ids, vectors):
    index = VectorIndex.build(IndexChoice("IVF16,SQ8", 1, 1), vectors, blocks(ids, vectors))
    queries = crowded(7, 100)
    truth = ids[np.argsort(-(queries @ vectors.T), axis=1)[:, :10]]

    def hits(effort):
        found = index.asked(IndexChoice("IVF16,SQ8", 1, effort)).candidates(queries, 10)
        return sum(len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True))

    assert hits(1) < hits(4) <= hits(16)
    assert hits(16) > 950  # every cell is visited; what is lost is lost to eight bits


@pytest.mark.parametrize(
    ("kind", "said"), [("nonsense", "knows no index"), ("PQ7x4fs", "knows no index"), ("IVF4096,SQ8", "needs 4,096")]
)
def test_kinds_that_cannot_be(kind, said, ids, vectors):
    with pytest.raises(ValueError, match=said):
        VectorIndex.build(IndexChoice(kind), vectors, blocks(ids, vectors))


def test_ids_ascend(ids, vectors):
    with pytest.raises(ValueError, match="ascend"):
        VectorIndex.build(IndexChoice("SQ8"), vectors, [(ids[::-1], vectors)])
    with pytest.raises(ValueError, match="ascend"):
        VectorIndex.build(IndexChoice("SQ8"), vectors, [(ids, vectors), (ids, vectors)])


def test_damage_is_named(index, tmp_path):
    index.save(tmp_path / "i")
    with (tmp_path / "i" / "ids").open("ab") as file:
        file.write(bytes(8))
    with pytest.raises(CollectionError, match=r"i: is damaged; `resight tune`"):
        VectorIndex.open(tmp_path / "i", index.choice)
    (tmp_path / "i" / "codes.faiss").write_bytes(b"no index")
    with pytest.raises(CollectionError, match=r"i: cannot be read"):
        VectorIndex.open(tmp_path / "i", index.choice)


@pytest.mark.parametrize(("depth", "effort"), [(0, 1), (1, 0)])
def test_choices_that_ask_nothing(depth, effort):
    with pytest.raises(ValueError, match="at least 1"):
        IndexChoice("SQ8", depth, effort)
