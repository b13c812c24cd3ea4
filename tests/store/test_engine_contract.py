"""What every VectorEngine owes a collection: the index in its folder, embedded Qdrant, and Qdrant by REST.

The last is the embedded Qdrant behind HTTP, and a live server as well when RESIGHT_TEST_VECTORDB_URL names one.
"""

import os
import secrets

import made_vectors
import numpy as np
import pytest
from made_vectors import vector_news, vector_recipe
from qdrant_client import QdrantClient, models

from resight.describe.description import Description
from resight.search import nearest
from resight.search.nearest import Nearest
from resight.store import vector_indexing
from resight.store.engines import connect_engine, drop_engine, engine_state, sync_engine
from resight.store.qdrant_connection import EngineError
from resight.store.store import New, Store
from resight.store.vector_index import IndexChoice
from resight.store.vector_indexing import build_index, refresh_index

D, N = 16, 400
LIVE = os.environ.get("RESIGHT_TEST_VECTORDB_URL")
QDRANT = ["memory", "rest", "live"]


def crowded(seed, n, d=D):
    return made_vectors.crowded(seed, n, d, crowds=40)


def silent(state):
    pass


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Limits that some hundred images exceed, so that every engine is asked, in several blocks and requests."""
    monkeypatch.setattr(nearest, "FEW", 100)
    monkeypatch.setattr(vector_indexing, "_FRESH", 50)
    monkeypatch.setattr(vector_indexing, "_BLOCK", 100)
    monkeypatch.setattr("resight.store.qdrant_engine._FLOATS", 150 * D)
    monkeypatch.setattr("resight.store.qdrant_engine._IDS", 200)


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "c", vector_recipe(D), "f" * 64) as made:
        made.add(vector_news(0, crowded(1, N)), [], None)
        yield made


@pytest.fixture(params=["faiss", *QDRANT])
def kind(request):
    return request.param


only_qdrant = pytest.mark.parametrize("kind", QDRANT, indirect=True)


@pytest.fixture
def server(kind, request, monkeypatch):
    """The address of a Qdrant of a kind, and a name nobody uses there."""
    name = f"resight-test-{secrets.token_hex(6)}"
    if kind == "live":
        if LIVE is None:
            pytest.skip("RESIGHT_TEST_VECTORDB_URL names no Qdrant server")
        yield LIVE, name
        monkeypatch.undo()
        QdrantClient(LIVE, api_key=os.environ.get("RESIGHT_VECTORDB_TOKEN")).delete_collection(name)
    elif kind == "rest":
        monkeypatch.delenv("RESIGHT_VECTORDB_TOKEN", raising=False)
        yield request.getfixturevalue("qdrant_server").url, name
    elif kind == "faiss":
        yield None
    else:
        client = QdrantClient(":memory:")
        monkeypatch.setattr("resight.store.qdrant_engine.connect", lambda url, insecure: client)
        yield "http://localhost:6333", name
        client.close()


@pytest.fixture
def searched(kind, store, server):
    """The store, searched through an engine of a kind that holds all its images."""
    if server is None:
        store.set_index(build_index(store, store.snapshot(), IndexChoice("SQfp16", 5)), N)
    else:
        connect_engine(store, *server, silent)
    return store


def nearest_ids(queries, vectors, ids, k):
    """By sorting all cosines."""
    return ids[np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]]


def recall(found, truth):
    return np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth, strict=True)])


def held(store):
    """Ids and vectors of the images there are."""
    snapshot = store.snapshot()
    blocks = list(vector_indexing.vector_blocks(store, snapshot))
    return np.concatenate([i for i, _ in blocks]), np.concatenate([v for _, v in blocks])


def test_candidates_hold_the_nearest(searched):
    queries, (ids, vectors) = crowded(2, 230), held(searched)  # in two requests
    engine = searched.index()
    assert (len(engine), engine.newest, engine.choice.depth) == (N, N, 5)
    found = engine.candidates(queries, 20)
    assert found.shape == (230, 20) and found.dtype == np.int64
    assert recall(found, nearest_ids(queries, vectors, ids, 10)) > 0.99


def test_it_grows_with_the_collection(searched):
    before = searched.index()
    before.candidates(crowded(3, 1), 1)
    searched.add(vector_news(N, crowded(4, 300)), [], None)
    assert refresh_index(searched, silent) is None
    engine, queries = searched.index(), crowded(4, 300)[:40]
    assert (len(engine), engine.newest) == (N + 300, N + 300)
    np.testing.assert_array_equal(engine.candidates(queries, 1)[:, 0], np.arange(N + 1, N + 41))
    assert before.candidates(queries, 5).max() <= before.newest == N  # what a search under way has seen stays


def test_removed_images_are_not_found(searched):
    gone = np.arange(1, 2 * N // 3)
    searched.remove(gone.tolist())
    refresh_index(searched, silent)
    engine, (ids, vectors), queries = searched.index(), held(searched), crowded(5, 20)
    assert len(engine) == len(ids) == N - len(gone)
    found = engine.candidates(queries, 30)
    assert not np.isin(found, gone).any()
    assert recall(found, nearest_ids(queries, vectors, ids, 10)) > 0.99


def test_a_changed_image_is_another(searched):
    searched.add([New("/7.png", "new", 1, 1, Description((64, 48), crowded(6, 1)[0], None))], [], None)
    searched.add(vector_news(N, crowded(7, 60)), [], None)
    refresh_index(searched, silent)
    position, _ = Nearest(searched.snapshot(), searched.vectors_log(), D, searched.index()).search(crowded(6, 1), 1)
    assert searched.snapshot().ids[position[0, 0]] == N + 1 and 8 not in searched.snapshot().ids


def test_a_search_finds_what_comparing_all_finds(searched):
    searched.add(vector_news(N, crowded(8, 40)), [], None)  # newer than the engine
    searched.remove(list(range(30, 120)))
    snapshot, log = searched.snapshot(), searched.vectors_log()
    queries = np.concatenate([crowded(9, 15), crowded(8, 40)[:5]])
    found, cosines = Nearest(snapshot, log, D, searched.index()).search(queries, 8)
    ids, vectors = held(searched)
    assert recall(snapshot.ids[found], nearest_ids(queries, vectors, ids, 8)) > 0.99
    np.testing.assert_allclose(cosines, np.einsum("qkd,qd->qk", vectors[found], queries), atol=1e-6)
    assert (snapshot.ids[found[15:, 0]] > N).all()


def test_an_engine_that_grows_under_a_search_finds_nothing_twice(searched):
    asking = searched.index()
    assert asking.newest == N
    searched.add(vector_news(N, crowded(10, 200)), [], None)
    refresh_index(searched, silent)
    snapshot = searched.snapshot()
    found, _ = Nearest(snapshot, searched.vectors_log(), D, asking).search(crowded(10, 200)[:10], 12)
    assert all(len(set(row)) == 12 for row in found.tolist())
    np.testing.assert_array_equal(snapshot.ids[found[:, 0]], np.arange(N + 1, N + 11))


def test_more_candidates_than_there_are(searched):
    found = searched.index().candidates(crowded(11, 2), N + 7)
    np.testing.assert_array_equal(np.sort(found[:, :N]), [np.arange(1, N + 1)] * 2)
    assert (found[:, N:] == -1).all()
    assert searched.index().candidates(crowded(11, 0), 3).shape == (0, 3)


def test_nothing_is_left(searched):
    searched.remove(list(range(1, N + 1)))
    refresh_index(searched, silent)
    engine = searched.index()
    assert len(engine) == 0 and (engine.candidates(crowded(12, 3), 4) == -1).all()
    searched.add(vector_news(N, crowded(13, 80)), [], None)
    refresh_index(searched, silent)
    np.testing.assert_array_equal(searched.index().candidates(crowded(13, 80)[:5], 1)[:, 0], np.arange(N + 1, N + 6))


def test_it_is_there_when_the_collection_is_opened_again(searched):
    searched.close()
    with Store(searched.folder, write=False) as opened:
        np.testing.assert_array_equal(opened.index().candidates(crowded(1, N)[:9], 1)[:, 0], np.arange(1, 10))


@only_qdrant
def test_another_recipe_is_refused_and_nothing_is_written(searched, server, tmp_path):
    with Store.create(tmp_path / "other", vector_recipe(D), "e" * 64) as other:
        other.add(vector_news(0, crowded(20, 5)), [], None)
        with pytest.raises(EngineError, match=r"of the recipe ffffffffffff, and this collection's are of eeeeeeeeeeee"):
            connect_engine(other, *server, silent)
        assert other.index() is None
    assert engine_state(searched).held == N


@only_qdrant
def test_another_dimension_is_refused(searched, server, tmp_path):
    with (
        Store.create(tmp_path / "other", vector_recipe(D + 8), "f" * 64) as other,
        pytest.raises(EngineError, match=rf"is for {D} dimensions, and this collection's descriptors have {D + 8}"),
    ):
        connect_engine(other, *server, silent)


@only_qdrant
def test_another_collection_of_the_same_recipe_is_refused(searched, server, tmp_path):
    said = "belongs to another resight collection; choose another --name"
    with Store.create(tmp_path / "other", vector_recipe(D), "f" * 64) as other, pytest.raises(EngineError, match=said):
        connect_engine(other, *server, silent)


@only_qdrant
def test_other_codes_are_refused(searched, server):
    with pytest.raises(EngineError, match=r"was made with --codes none; name those"):
        connect_engine(searched, *server, silent, codes="binary")
    assert connect_engine(searched, *server, silent, depth=9).depth == 9


@only_qdrant
def test_what_it_lost_is_given_anew(searched, server):
    engine = searched.engine()
    engine.delete(np.array([5, 6, 7]))
    engine.put(np.array([40_000]), crowded(14, 1))  # and somebody added what is not ours
    assert engine_state(searched).held == N - 2 and engine_state(searched).behind
    assert not sync_engine(searched, silent).behind
    np.testing.assert_array_equal(engine.ids(), np.arange(1, N + 1))
    found = searched.index().candidates(crowded(1, N)[:7], 1)[:, 0]
    np.testing.assert_array_equal(found, np.arange(1, 8))


@only_qdrant
@pytest.mark.parametrize("point", ["5c56c793-69f3-4fbf-87e6-c4bf54c28c26", 2**63])
def test_points_that_are_no_images_are_not_found_but_named(searched, point):
    engine, query = searched.engine(), crowded(21, 1)
    engine._client.upsert(engine.facts.name, models.Batch(ids=[point], vectors=query.tolist()), wait=True)
    found = searched.index().candidates(query, 10)
    assert found[0, 9] == -1 and (found[0, :9] > 0).all()
    with pytest.raises(EngineError, match=f"holds points that are not resight's, as {point}; delete them there"):
        sync_engine(searched, silent)


@only_qdrant
def test_a_deleted_one_is_made_anew_only_when_asked(searched, server):
    searched.engine().drop()
    with pytest.raises(EngineError, match=rf"has no collection {server[1]}; `--sync` makes it anew.*--exact"):
        len(searched.index())
    searched.add(vector_news(N, crowded(15, 10)), [], None)
    assert "has no collection" in refresh_index(searched, silent)
    assert not searched.engine().exists()
    assert sync_engine(searched, silent).held == len(searched.index()) == N + 10


@only_qdrant
def test_a_restored_catalogue_hides_no_image(searched):
    """The catalogue has fewer images than the server, and gives their ids to others."""
    restored = searched.engine().facts
    searched.add(vector_news(N, crowded(16, 60)), [], None)
    refresh_index(searched, silent)
    searched.remove(list(range(N + 1, N + 61)))
    with searched.catalogue.transaction() as db:
        db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'images'", (N,))
    searched.set_engine(restored)
    new = crowded(17, 20)
    searched.add(vector_news(N, new), [], None)

    def first():
        found, _ = Nearest(searched.snapshot(), searched.vectors_log(), D, searched.index()).search(new, 1)
        return searched.snapshot().ids[found[:, 0]]

    np.testing.assert_array_equal(first(), np.arange(N + 1, N + 21))
    refresh_index(searched, silent)
    np.testing.assert_array_equal(first(), np.arange(N + 1, N + 21))
    np.testing.assert_array_equal(searched.index().candidates(new, 1)[:, 0], np.arange(N + 1, N + 21))
    assert not engine_state(searched).behind


@only_qdrant
def test_a_server_restored_from_an_older_state_hides_no_image(searched):
    searched.add(vector_news(N, crowded(18, 60)), [], None)
    refresh_index(searched, silent)
    engine = searched.engine()
    engine.delete(np.arange(N - 9, N + 61))
    engine.confirm(N - 10)
    assert searched.index().newest == N - 10
    found, _ = Nearest(searched.snapshot(), searched.vectors_log(), D, searched.index()).search(crowded(18, 60), 1)
    np.testing.assert_array_equal(searched.snapshot().ids[found[:, 0]], np.arange(N + 1, N + 61))
    refresh_index(searched, silent)
    assert not engine_state(searched).behind


@only_qdrant
def test_interrupted_filling_goes_on(kind, store, server):
    done = []

    def stop(state):
        done.append(state.done)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect_engine(store, *server, stop)
    assert store.index().newest == len(store.index()) == done[-1] == 200
    found, _ = Nearest(store.snapshot(), store.vectors_log(), D, store.index()).search(crowded(1, N)[:9], 1)
    np.testing.assert_array_equal(store.snapshot().ids[found[:, 0]], np.arange(1, 10))
    sent = []
    assert not sync_engine(store, lambda state: sent.append(state.total)).behind
    assert set(sent) == {N - 200}


@only_qdrant
def test_dropping_leaves_or_deletes_what_it_holds(searched, server):
    drop_engine(searched)
    assert searched.index() is None
    connect_engine(searched, *server, silent)  # it is still ours
    drop_engine(searched, delete=True)
    assert searched.index() is None
    with pytest.raises(EngineError, match="is searched through no vector database"):
        engine_state(searched)
    connect_engine(searched, *server, silent, codes="scalar")
    assert not searched.engine().held().count - N


def test_embedded_qdrant_on_disk(tmp_path, monkeypatch):
    """What was written before the client was closed is there for the next one."""
    vectors = crowded(19, 40)
    with Store.create(tmp_path / "small", vector_recipe(D), "f" * 64) as small:
        small.add(vector_news(0, vectors), [], None)
        for _ in range(2):
            client = QdrantClient(path=str(tmp_path / "qdrant"))
            monkeypatch.setattr("resight.store.qdrant_engine.connect", lambda url, insecure, to=client: to)
            if small.index() is None:
                connect_engine(small, "http://localhost:6333", "small", silent)
            assert not engine_state(small).behind
            np.testing.assert_array_equal(small.index().candidates(vectors, 1)[:, 0], np.arange(1, 41))
            client.close()
