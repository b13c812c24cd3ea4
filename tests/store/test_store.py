"""What was stored is found, however it was stored: against encodings compared pair by pair."""

import errno
import os

import numpy as np
import pytest

from resight.errors import CollectionError
from resight.local.asmk import Encoding, encode, selectivity
from resight.local.asmk_filter import AsmkFilter
from resight.search.filters import word_similarity, word_weights
from resight.search.searcher import Searcher
from resight.store import encoder as encoder_module
from resight.store import store as store_module
from resight.store.check import problems
from resight.store.log import LogWriter
from resight.store.store import Snapshot, Store


def brute_force(query: Encoding, images: list[Encoding]) -> list[float]:
    weight = selectivity(128, 3.0, 0.0)
    scores = []
    for image in images:
        codes = dict(zip(image.words.tolist(), image.codes, strict=True))
        pairs = [(c, codes[w]) for w, c in zip(query.words.tolist(), query.codes, strict=True) if w in codes]
        total = sum(float(weight[np.bitwise_count(a ^ b).sum()]) for a, b in pairs)
        scores.append(total / max(1, len(query) * len(image)) ** 0.5)
    return scores


def similarities(store: Store, query: Encoding) -> np.ndarray:
    return of_snapshot(store.snapshot(), query)


def of_snapshot(snapshot: Snapshot, query: Encoding) -> np.ndarray:
    asmk = AsmkFilter(snapshot.codebook, alpha=3.0, threshold=0.0)
    return word_similarity(snapshot, query, asmk, word_weights(snapshot, asmk))[0]


def encoded(made_up, codebook, seed, n) -> Encoding:
    return encode(made_up(seed, n).descriptors.astype(np.float32), codebook)


def origins(store: Store) -> list[str]:
    return [origin for (origin,) in store.catalogue.rows("SELECT origin FROM images ORDER BY id")]


@pytest.mark.parametrize("seed", [0, 1])
def test_similarities_are_those_of_brute_force_after_any_history(store, new, made_up, codebook, seed):
    """Batches are added, images replaced and removed; segments come and are merged; nothing of it shows."""
    rng = np.random.default_rng(seed)
    store.start_generation(codebook, {"words": 32})
    expected: dict[str, tuple[int, int]] = {}
    most_segments = 0
    for step in range(14):
        batch = {}
        for _ in range(rng.integers(1, 6)):
            batch[f"/{rng.integers(0, 60)}"] = int(rng.integers(0, 1000)), int(rng.choice([0, 5, 40, 80]))
        store.add([new(origin, made_up(*facts)) for origin, facts in batch.items()], [], codebook)
        expected |= batch
        if step % 3 == 2:
            gone = [str(o) for o in rng.permutation(list(expected))[:3]]
            rows = [store.catalogue.rows("SELECT id FROM images WHERE origin = ?", (o,)) for o in gone]
            store.remove([row[0][0] for row in rows])
            expected = {o: f for o, f in expected.items() if o not in gone}
        most_segments = max(most_segments, len(store.snapshot().segments))
        query = encoded(made_up, codebook, 5000 + step, 60)
        images = [encoded(made_up, codebook, *expected[o]) for o in origins(store)]
        np.testing.assert_allclose(similarities(store, query), brute_force(query, images), rtol=1e-5, atol=1e-7)
    assert set(origins(store)) == set(expected)
    assert 2 <= most_segments < 14  # there were several to read, and some were merged
    assert problems(store, lambda _: None) == []


def test_stored_images_are_wholly_similar_to_themselves(filled, made_up, codebook):
    for seed, n in enumerate((30, 0, 45, 60, 75, 90)):
        score = similarities(filled, encoded(made_up, codebook, seed, n))[seed]
        assert score == pytest.approx(1.0 if n else 0.0, abs=1e-6)


def test_what_is_stored_comes_back(filled, made_up, codebook):
    searcher = Searcher(filled)
    for position, n in enumerate((30, 0, 45, 60, 75, 90)):
        stored = searcher.stored(position)
        assert stored.size == (640, 480) and stored.global_descriptor is None
        np.testing.assert_array_equal(stored.local.xy, made_up(position, n).xy)
        np.testing.assert_array_equal(stored.local.descriptors, made_up(position, n).descriptors)
        words = codebook.assign(made_up(position, n).descriptors.astype(np.float32))[:, 0]
        np.testing.assert_array_equal(searcher._word(position), words)


def test_ids_are_never_given_twice(filled, new, made_up, codebook):
    last = filled.catalogue.rows("SELECT max(id) FROM images")[0][0]
    filled.remove([last])
    filled.add([new("/again", made_up(7, 20))], [], codebook)
    assert filled.catalogue.rows("SELECT id FROM images WHERE origin = '/again'") == [(last + 1,)]


def test_images_wait_for_the_codebook_and_are_encoded_in_batches(store, new, made_up, codebook):
    store.add([new(f"/{i}", made_up(i, 30)) for i in range(5)], [("/bad", "why", 1, 2)], None)
    assert store.pending() == 5
    store.start_generation(codebook, {"words": 32})
    assert list(store.encode_pending(batch=2)) == [2, 2, 1] and store.pending() == 0
    query = encoded(made_up, codebook, 3, 30)
    images = [encoded(made_up, codebook, i, 30) for i in range(5)]
    np.testing.assert_allclose(similarities(store, query), brute_force(query, images), rtol=1e-5)


def test_readers_keep_the_state_they_began_with(filled, new, made_up, codebook):
    """Also when what they read has been removed, merged, encoded anew and swept meanwhile."""
    query = encoded(made_up, codebook, 4, 75)
    with Store(filled.folder, write=False) as reading:
        searcher = Searcher(reading)
        before = of_snapshot(searcher.snapshot, query)
        filled.remove([1, 2])
        for i in range(6):
            filled.add([new(f"/more{i}", made_up(50 + i, 30))], [], codebook)
        filled.start_generation(codebook, {"words": 32})
        np.testing.assert_array_equal(of_snapshot(searcher.snapshot, query), before)
        np.testing.assert_array_equal(searcher.stored(0).local.xy, made_up(0, 30).xy)
        words = codebook.assign(made_up(4, 75).descriptors.astype(np.float32))[:, 0]
        np.testing.assert_array_equal(searcher._word(4), words)
        assert len(searcher.snapshot) == 6 and len(reading.snapshot()) == 10


def test_one_writes_and_many_read(filled):
    with pytest.raises(CollectionError, match="another process is writing to it; wait for it or stop it"):
        Store(filled.folder, write=True)
    with Store(filled.folder, write=False) as one, Store(filled.folder, write=False) as two:
        assert len(one.snapshot()) == len(two.snapshot()) == 6
    filled.close()
    Store(filled.folder, write=True).close()


def test_a_folder_that_may_not_be_written_is_read(filled):
    query_folder = filled.folder
    filled.close()
    files = [query_folder, *query_folder.rglob("*")]
    try:
        for path in files:
            path.chmod(0o555 if path.is_dir() else 0o444)
        with Store(query_folder, write=False) as reading:
            assert len(reading.snapshot()) == 6 and problems(reading, lambda _: None) == []
        if os.geteuid():  # root may write anywhere
            with pytest.raises(CollectionError, match=r"cannot be written|readonly"):
                Store(query_folder, write=True)
    finally:
        for path in files:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_opening_what_is_no_collection_leaves_nothing_there(tmp_path):
    for write in (False, True):
        with pytest.raises(CollectionError, match="no collection here"):
            Store(tmp_path, write=write)
        with pytest.raises(CollectionError, match="no collection here"):
            Store(tmp_path / "nowhere", write=write)
    assert list(tmp_path.iterdir()) == []


def test_a_collection_is_made_only_in_an_empty_folder(tmp_path, recipe):
    (tmp_path / "photo.jpg").write_bytes(b"")
    for place in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(CollectionError, match="is not an empty folder; choose another name"):
            Store.create(place, recipe, "f00d")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]
    Store.create(tmp_path / "deep/er", recipe, "f00d").close()
    with pytest.raises(CollectionError, match="is not an empty folder"):
        Store.create(tmp_path / "deep/er", recipe, "f00d")


def test_what_crashes_left_is_swept_and_nothing_else(filled, codebook):
    named = {p.name for p in filled.folder.iterdir()}
    filled.close()
    (filled.folder / "inverted-99999999").mkdir()
    (filled.folder / "inverted-99999999/words").write_bytes(b"half")
    for name in ("words-7.log", "codebook-7.safetensors", ".codebook-7.safetensors.123.tmp", "notes.txt"):
        (filled.folder / name).write_bytes(b"half")
    Store(filled.folder, write=True).close()
    assert {p.name for p in filled.folder.iterdir()} == named | {"notes.txt"}


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


PLACES = {
    "features": (LogWriter, "append"),
    "sync": (LogWriter, "sync"),
    "segment": (encoder_module, "write_segment"),
    "folder": (store_module, "sync_folder"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_loses_nothing_and_is_got_over(filled, new, made_up, codebook, monkeypatch, place):
    before = origins(filled)
    with monkeypatch.context() as patch:
        patch.setattr(*PLACES[place], no_space)
        with pytest.raises(OSError, match="No space left"):
            filled.add([new("/new", made_up(9, 40)), new("/0", made_up(8, 40))], [("/1", "why", 1, 2)], codebook)
        assert origins(filled) == before and problems(filled, lambda _: None) == []
    filled.add([new("/new", made_up(9, 40)), new("/0", made_up(8, 40))], [("/1", "why", 1, 2)], codebook)
    assert origins(filled) == ["/2", "/3", "/4", "/5", "/new", "/0"] and problems(filled, lambda _: None) == []
    query = encoded(made_up, codebook, 9, 40)
    facts = [(2, 45), (3, 60), (4, 75), (5, 90), (9, 40), (8, 40)]
    images = [encoded(made_up, codebook, *f) for f in facts]
    np.testing.assert_allclose(similarities(filled, query), brute_force(query, images), rtol=1e-5, atol=1e-7)


def test_a_full_disk_while_encoding_is_got_over(store, new, made_up, codebook, monkeypatch):
    store.add([new(f"/{i}", made_up(i, 30)) for i in range(6)], [], None)
    store.start_generation(codebook, {"words": 32})
    encoding = store.encode_pending(batch=2)
    assert next(encoding) == 2
    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "sync", no_space)
        with pytest.raises(OSError, match="No space left"):
            next(encoding)
    assert store.pending() == 4 and problems(store, lambda _: None) == []
    assert list(store.encode_pending(batch=3)) == [3, 1]
    images = [encoded(made_up, codebook, i, 30) for i in range(6)]
    np.testing.assert_allclose(similarities(store, images[5]), brute_force(images[5], images), rtol=1e-5)
