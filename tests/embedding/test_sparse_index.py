"""The inverted file against a dense matrix product."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, random_array

from resight.embedding.sparse_index import SparseIndex
from resight.errors import CollectionError


def rows(n: int, words: int = 200, density: float = 0.1, seed: int = 0) -> csr_array:
    drawn = random_array((n, words), density=density, rng=np.random.default_rng(seed), format="csr", dtype=np.float64)
    return csr_array(drawn, dtype=np.float32)


def exhaustive(database: csr_array, queries: csr_array, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries.toarray().astype(float) @ database.toarray().astype(float).T
    order = np.array([sorted(range(database.shape[0]), key=lambda i: (-row[i], i))[:k] for row in scores])
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("parts", [[70], [1] * 70, [40, 20, 9, 1], [0, 5, 65]])
def test_it_is_exhaustive_search_however_the_rows_were_added(parts):
    database, queries = rows(70), rows(9, seed=1)
    index = SparseIndex(200)
    for start, stop in pairwise(np.cumsum([0, *parts])):
        index.add(database[start:stop])
    assert len(index) == 70
    ids, scores = index.search(queries, 12)
    expected_ids, expected_scores = exhaustive(database, queries, 12)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), max_size=12), st.integers(1, 14), st.data())
def test_ties_are_broken_by_id_and_zero_scores_come_last(values, k, data):
    database = csr_array(np.array(values, np.float32).reshape(-1, 4))
    query = csr_array(np.array([data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))], np.float32))
    index = SparseIndex(4)
    for place in range(database.shape[0]):
        index.add(database[[place]])
    ids, scores = index.search(query, k)
    if len(index) == 0:
        assert ids.shape == scores.shape == (1, 0)
        return
    expected_ids, expected_scores = exhaustive(database, query, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)


def test_a_row_given_in_pieces_is_their_sum():
    pieces = csr_array((np.array([1, 2, 4], np.float32), np.array([3, 0, 3]), np.array([0, 3])), shape=(1, 5))
    index = SparseIndex(5)
    index.add(pieces)
    assert index.search(pieces, 1)[1].tolist() == [[29]]
    assert pieces.nnz == 3  # the caller's rows stay as they were


def test_it_survives_the_disk_mapped_and_still_grows(tmp_path):
    database, queries = rows(60), rows(5, seed=1)
    index = SparseIndex(200)
    index.add(database[:40])
    index.add(database[40:50])
    index.save(tmp_path / "index")
    opened = SparseIndex.open(tmp_path / "index")
    for found in (index, opened):
        found.add(database[50:])
        np.testing.assert_array_equal(found.search(queries, 60)[0], exhaustive(database, queries, 60)[0])
    assert not list(tmp_path.glob(".*")) and (len(opened), opened.words) == (60, 200)
    with pytest.raises(CollectionError, match="give a new folder"):
        index.save(tmp_path / "index")


def test_an_empty_index_survives_the_disk(tmp_path):
    SparseIndex(7).save(tmp_path / "index")
    opened = SparseIndex.open(tmp_path / "index")
    assert (len(opened), opened.words) == (0, 7)
    assert opened.search(csr_array((2, 7), dtype=np.float32), 3)[0].shape == (2, 0)


@pytest.mark.parametrize("harm", ["missing", "cut", "shorter", "other", "object"])
def test_a_damaged_folder_is_named(tmp_path, harm):
    index = SparseIndex(200)
    index.add(rows(30))
    index.save(tmp_path / "index")
    file = tmp_path / "index" / "rows.npy"
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    else:
        array = np.load(file)
        changed = {"shorter": array[:-1], "other": array.astype(np.int64), "object": array.astype(object)}[harm]
        np.save(file, changed, allow_pickle=True)
    with pytest.raises(CollectionError, match="index"):
        SparseIndex.open(tmp_path / "index")


def test_what_does_not_fit_is_refused():
    index = SparseIndex(200)
    for wrong, message in ((rows(3, 100), "n×200"), (rows(3) * np.float32(np.nan), "finite")):
        with pytest.raises(ValueError, match=message):
            index.add(wrong)
        with pytest.raises(ValueError, match=message):
            index.search(wrong, 1)
    with pytest.raises(ValueError, match="k must"):
        index.search(rows(1), 0)
