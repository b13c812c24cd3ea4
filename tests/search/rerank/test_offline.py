"""Offline diffusion against dense linear algebra, on disk and back."""

import errno
import json
import os

import numpy as np
import pytest

from resight.errors import QueryError, RecipeError
from resight.search.rerank import Database, OfflineDiffusion, initial_ranking
from resight.search.rerank.diffusion import closed_form, normalised, sources
from resight.search.rerank.neighbours import mutual_graph

EXACT = {"tolerance": 1e-12, "iterations": 500}


def test_untruncated_it_is_the_closed_form(database, tmp_path, draw):
    offline = OfflineDiffusion.build(tmp_path / "d", database, k=6, truncation=60, alpha=0.9, sources=4, **EXACT)
    order = np.argsort(database.ids)
    vectors, query = database.vectors[order], draw(1, seed=4)[0]
    s = normalised(mutual_graph(vectors, 6, 3.0))
    expected = closed_form(s, sources(query, vectors, 4, 3.0), 0.9)
    ids, scores = offline.search(query)
    reached = expected > 1e-12
    assert 5 < len(ids) == np.count_nonzero(reached)
    np.testing.assert_allclose(scores, np.sort(expected[reached])[::-1], rtol=1e-4)
    assert ids.tolist() == database.ids[order][np.argsort(-expected)][: len(ids)].tolist()


def test_rows_are_solved_on_their_truncated_neighbourhoods(database, tmp_path, monkeypatch):
    monkeypatch.setattr("resight.search.rerank.truncated._UNKNOWNS", 7 * 15)
    monkeypatch.setattr("resight.search.rerank.truncated._SEARCHED", 11)
    monkeypatch.setattr("resight.search.rerank.offline._COPIED", 13)
    offline = OfflineDiffusion.build(tmp_path / "d", database, k=6, truncation=15, alpha=0.9, **EXACT)
    vectors = database.vectors[np.argsort(database.ids)]
    np.testing.assert_array_equal(offline.vectors, vectors)
    lap = np.eye(60) - 0.9 * normalised(mutual_graph(vectors, 6, 3.0)).toarray()
    for i in range(60):
        near = np.argsort(-(vectors @ vectors[i]))[:15]
        assert sorted(offline.columns[i]) == sorted(near)
        columns = offline.columns[i]
        expected = np.linalg.solve(lap[np.ix_(columns, columns)], columns == i)
        np.testing.assert_allclose(offline.weights[i], expected, atol=1e-6)


def test_copies_of_an_image_may_fill_its_neighbourhood(tmp_path):
    copies = Database(np.arange(30), np.tile(np.array([[0.6, 0.8]], np.float32), (30, 1)))
    offline = OfflineDiffusion.build(tmp_path / "d", copies, k=3, truncation=5)
    assert all(i in offline.columns[i] for i in range(30))
    assert all(len(set(row)) == 5 for row in offline.columns.tolist())


def test_the_first_few_are_the_first_of_all(database, tmp_path, draw):
    offline = OfflineDiffusion.build(tmp_path / "d", database, k=6, truncation=40)
    query = draw(1, seed=4)[0]
    ids, scores = offline.search(query)
    for top in (1, 7, 10_000):
        few, their = offline.search(query, top)
        assert few.tolist() == ids[:top].tolist()
        np.testing.assert_array_equal(their, scores[:top])
    with pytest.raises(QueryError, match="6 entries"):
        offline.search(query[:3])


def test_equal_scores_are_in_the_order_of_ids(tmp_path):
    x = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    offline = OfflineDiffusion.build(tmp_path / "d", Database(np.array([30, 10, 20, 5]), x), k=2, truncation=4)
    assert offline.search(np.array([1, 0], np.float32))[0].tolist() == [10, 20, 30]
    assert offline.search(np.array([1, 0], np.float32), top=2)[0].tolist() == [10, 20]


def test_it_reranks_what_another_search_found(database, tmp_path, draw):
    offline = OfflineDiffusion.build(tmp_path / "d", database, k=6, truncation=40, sources=5)
    query = draw(1, seed=4)[0]
    ranking = initial_ranking(query, database).top(8)
    new = offline.rerank(query, ranking, database)
    ids, scores = offline.search(query)
    assert new.ids[: len(ids)].tolist() == ids.tolist()
    np.testing.assert_allclose(new.scores[: len(ids)], scores, rtol=1e-5)
    later = Database(np.append(database.ids, 999), np.concatenate([database.vectors, query[None]]))
    with pytest.raises(QueryError, match="999"):
        offline.rerank(query, initial_ranking(query, later), later)


def test_a_folder_is_opened_as_it_was_built(database, tmp_path):
    states = []
    built = OfflineDiffusion.build(
        tmp_path / "d", database, k=4, truncation=9, sources=3, gamma=2.0, progress=states.append
    )
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert states[-1].done == states[-1].total == 60
    opened = OfflineDiffusion.open(tmp_path / "d")
    assert (opened.sources, opened.gamma) == (built.sources, built.gamma) == (3, 2.0)
    assert isinstance(opened.weights, np.memmap)
    np.testing.assert_array_equal(opened.weights, built.weights)


def test_what_cannot_be_built(database, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(RecipeError, match="there: exists already"):
        OfflineDiffusion.build(tmp_path / "there", database)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be written"):
        OfflineDiffusion.build(tmp_path / "file" / "d", database)
    for wrong in ({"k": 0}, {"k": 9, "truncation": 9}, {"alpha": 1.0}, {"sources": 0}, {"gamma": 0.0}):
        with pytest.raises(RecipeError):
            OfflineDiffusion.build(tmp_path / "d", database, **wrong)
    with pytest.raises(QueryError, match="database"):
        OfflineDiffusion.build(tmp_path / "d", Database(np.empty(0, np.int64), np.empty((0, 3), np.float32)))
    assert not (tmp_path / "d").exists()


def test_a_full_disk_is_told_before_anything_is_mapped(database, tmp_path, monkeypatch):
    def full(descriptor, start, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(RecipeError, match="cannot be written: No space left"):
        OfflineDiffusion.build(tmp_path / "d", database, k=4, truncation=9)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_build_leaves_nothing(database, tmp_path):
    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OfflineDiffusion.build(tmp_path / "d", database, k=4, truncation=9, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_damaged_folders_are_named(database, tmp_path):
    with pytest.raises(RecipeError, match="nowhere: holds no offline diffusion"):
        OfflineDiffusion.open(tmp_path / "nowhere")
    folder = tmp_path / "d"
    OfflineDiffusion.build(folder, database, k=4, truncation=9)
    header = json.loads((folder / "meta.json").read_text())
    good = (folder / "weights.npy").read_bytes()
    (folder / "weights.npy").write_bytes(good[:-8])
    with pytest.raises(RecipeError, match="d: is damaged"):
        OfflineDiffusion.open(folder)
    np.save(folder / "weights.npy", np.array([object()], object), allow_pickle=True)
    with pytest.raises(RecipeError, match="d: is damaged"):
        OfflineDiffusion.open(folder)
    np.save(folder / "weights.npy", np.zeros((60, 8), np.float32))
    with pytest.raises(RecipeError, match="do not fit"):
        OfflineDiffusion.open(folder)
    (folder / "weights.npy").write_bytes(good)
    for damaged, says in (({**header, "format": 9}, "format 9"), ([], "damaged")):
        (folder / "meta.json").write_text(json.dumps(damaged))
        with pytest.raises(RecipeError, match=says):
            OfflineDiffusion.open(folder)
