"""Searching through an index: what is found is what comparing all finds, whatever was added, removed or left out."""

from functools import partial

import made_vectors
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_vectors import vector_news, vector_recipe

from resight.describe.description import Description
from resight.errors import CollectionError
from resight.search import index_tuning, nearest
from resight.search.examples import DescribedExample
from resight.search.index_tuning import Wanted, kinds, tune
from resight.search.nearest import Nearest
from resight.search.searcher import Searcher
from resight.store import vector_indexing
from resight.store.check import problems
from resight.store.indexing import advice
from resight.store.store import Store
from resight.store.vector_index import IndexChoice, VectorIndex
from resight.store.vector_indexing import build_index, refresh_index, vector_blocks, vector_sample

D, N = 32, 4000
crowded = partial(made_vectors.crowded, dimensions=D, crowds=80)
plain, news = partial(vector_recipe, D), vector_news


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Limits that a few thousand images exceed, as real collections do the real ones."""
    monkeypatch.setattr(nearest, "FEW", 200)
    monkeypatch.setattr(index_tuning, "FEW", 200)
    monkeypatch.setattr(vector_indexing, "_FRESH", 100)
    monkeypatch.setattr(vector_indexing, "_BLOCK", 512)


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "c", plain(), "f") as made:
        made.add(news(0, crowded(1, N)), [], None)
        yield made


def nearest_of(store, engine, rows=None):
    snapshot = store.snapshot()
    return Nearest(snapshot if rows is None else snapshot.take(rows), store.vectors_log(), D, engine)


def truth(store, queries, k):
    """Ids of the k nearest, by all cosines at once."""
    searcher = Searcher(store)
    cosines = np.array([searcher.stored(p).global_descriptor for p in range(len(searcher.snapshot))]) @ queries.T
    return searcher.snapshot.ids[np.argsort(-cosines, axis=0, kind="stable")[:k].T]


def found_ids(store, engine, queries, k):
    positions, cosines = nearest_of(store, engine).search(queries, k)
    assert (np.diff(cosines, axis=1) <= 0).all()
    return store.snapshot().ids[positions]


def test_comparing_all_is_what_sorting_all_cosines_is(store):
    queries = crowded(2, 6)
    np.testing.assert_array_equal(found_ids(store, None, queries, 25), truth(store, queries, 25))


@pytest.mark.parametrize("choice", [IndexChoice("SQ8", 2), IndexChoice("IVF32,PQ8x4fs", 10, 16)])
def test_an_index_finds_the_same_also_after_adding_and_removing(store, choice):
    queries = crowded(3, 20)
    index = build_index(store, store.snapshot(), choice)
    assert np.mean(found_ids(store, index, queries, 10) == truth(store, queries, 10)) > 0.95
    store.add(news(N, crowded(4, 90)), [], None)  # newer than the index
    store.remove(truth(store, queries, 3).ravel().tolist())
    found, expected = found_ids(store, index, queries, 10), truth(store, queries, 10)
    assert np.mean(found == expected) > 0.95
    assert (expected > N).any()
    np.testing.assert_array_equal(found[expected > N], expected[expected > N])


def test_cosines_are_exact_and_nothing_is_found_twice(store):
    queries, index = crowded(5, 5), build_index(store, store.snapshot(), IndexChoice("PQ8x4fs", 5))
    positions, cosines = nearest_of(store, index).search(queries, 30)
    searcher = Searcher(store)
    for query, row, found in zip(queries, positions, cosines, strict=True):
        assert len(set(row.tolist())) == 30
        exact = [float(searcher.stored(p).global_descriptor.astype(float) @ query) for p in row]
        np.testing.assert_allclose(found, exact, atol=1e-6)


def test_ties_are_broken_by_id(tmp_path):
    same = np.repeat(crowded(6, 1), 700, axis=0)
    with Store.create(tmp_path / "t", plain(), "f") as made:
        made.add(news(0, same), [], None)
        assert found_ids(made, None, same[:1], 9).tolist() == [list(range(1, 10))]


@given(
    st.lists(st.tuples(st.sampled_from([-np.inf, -1.0, -0.5, -0.0, 0.0, 2.0**-40, 0.25, 0.5, 1.0]), st.integers(0, 40)),
             min_size=1, max_size=30, unique_by=lambda pair: pair[1]),
    st.integers(1, 35),
)  # fmt: skip
def test_the_best_of_a_list_are_in_order_with_ties_by_position(pairs, k):
    cosines = np.array([[c for c, _ in pairs]], np.float32)
    positions, found = nearest._best([(np.array([[p for _, p in pairs]]), cosines)], k)
    expected = sorted(((-c, p) for c, p in pairs))[:k]
    lacking = k - len(expected)
    assert positions[0].tolist() == [p for _, p in expected] + [-1] * lacking
    assert found[0].tolist() == [-c for c, _ in expected] + [-np.inf] * lacking


def test_a_few_images_are_found_among_many(store):
    """Of a part that the index has only here and there, as many as are wanted."""
    rows, queries = np.arange(0, N, 12), crowded(7, 8)
    index = build_index(store, store.snapshot(), IndexChoice("SQ8", 1))
    found, _ = nearest_of(store, index, rows).search(queries, 15)
    expected, _ = nearest_of(store, None, rows).search(queries, 15)
    assert np.mean(found == expected) > 0.95


def test_an_engine_that_knows_too_few_leaves_the_rest_to_comparing_all(store):
    """One cell of 32 has some 125 images: of 150 nearest the short queries' are exact, and the others' are not."""
    queries, index = crowded(15, 40), build_index(store, store.snapshot(), IndexChoice("IVF32,SQ8", 1, 1))
    known = (index.candidates(queries, 150) >= 0).all(axis=1)
    assert 0 < known.sum() < 40
    found, _ = nearest_of(store, index).search(queries, 150)
    expected, _ = nearest_of(store, None).search(queries, 150)
    same = (found == expected).all(axis=1)
    assert same[~known].all() and not same[known].all() and (found >= 0).all()


def test_fewer_images_than_are_wanted(store):
    rows = np.arange(5)
    found, cosines = nearest_of(store, None, rows).search(crowded(8, 2), 9)
    assert (np.sort(found)[:, -5:] == rows).all() and (found[:, 5:] == -1).all()
    assert np.isneginf(cosines[:, 5:]).all()


def test_vectors_are_streamed_in_the_order_of_ids_without_removed_ones(store):
    store.remove(list(range(100, 1900)))
    snapshot = store.snapshot()
    parts = list(vector_blocks(store, snapshot, above=50))
    ids = np.concatenate([ids for ids, _ in parts])
    np.testing.assert_array_equal(ids, [*range(51, 100), *range(1900, N + 1)])
    np.testing.assert_array_equal(np.concatenate([v for _, v in parts]), crowded(1, N)[ids - 1])
    assert max(len(ids) for ids, _ in parts) <= 512


def test_a_sample_is_drawn_by_its_seed(store):
    snapshot = store.snapshot()
    some = vector_sample(store, snapshot, 50, 3)
    np.testing.assert_array_equal(some, vector_sample(store, snapshot, 50, 3))
    assert some.shape == (50, D) and not np.array_equal(some, vector_sample(store, snapshot, 50, 4))
    assert len(vector_sample(store, snapshot, 10**6, 0)) == N


def test_an_index_is_kept_across_sessions_and_told_of_damage(store):
    store.set_index(build_index(store, store.snapshot(), IndexChoice("SQ8", 3)), N)
    before = Searcher(store)
    assert before.snapshot.index.choice == IndexChoice("SQ8", 3)
    store.set_index(build_index(store, store.snapshot(), IndexChoice("SQfp16", 1)), N)  # swapped in whole
    assert Searcher(store).snapshot.index.choice.kind == "SQfp16"
    assert len([p for p in store.folder.iterdir() if p.name.startswith("index-")]) == 1
    assert before.snapshot.index.candidates(crowded(1, 1), 3).shape == (1, 3)  # a search under way goes on
    assert problems(store, lambda _: None) == []
    codes = next(store.folder.glob("index-*/codes.faiss"))
    damaged = bytearray(codes.read_bytes())
    damaged[-100] ^= 1
    codes.write_bytes(damaged)
    assert any("index-00000002: is damaged; `resight tune`" in line for line in problems(store, lambda _: None))
    store.set_index(None, 0)
    assert store.index() is None and not list(store.folder.glob("index-*"))


def test_new_images_are_put_in_and_removed_ones_left_out_in_time(store):
    store.set_index(build_index(store, store.snapshot(), IndexChoice("SQ8", 3)), N)
    store.add(news(N, crowded(9, 60)), [], None)
    refresh_index(store, lambda _: None)
    assert len(store.index()) == N  # too few to bother
    store.add(news(N + 60, crowded(10, 60)), [], None)
    refresh_index(store, lambda _: None)
    assert len(store.index()) == N + 120
    store.remove(list(range(1, 2 * N // 3)))
    refresh_index(store, lambda _: None)
    assert len(store.index()) == len(store.snapshot())
    queries = crowded(11, 10)
    np.testing.assert_array_equal(found_ids(store, store.index(), queries, 5), truth(store, queries, 5))


def test_a_collection_that_outgrows_its_index_says_so(store):
    store.set_index(build_index(store, store.snapshot(), IndexChoice("SQ8")), N // 4 + 1)
    assert advice(store) is None
    store.set_index(store.index(), N // 4)
    assert "chosen when there were 1,000 images; now there are 4,000. `resight tune" in advice(store)


def test_a_search_by_the_index_is_the_first_part_of_the_whole_ranking(store):
    example = [DescribedExample(Description((64, 48), crowded(12, 1)[0], None))]
    whole, _ = Searcher(store).rank_examples(example, None)
    store.set_index(build_index(store, store.snapshot(), IndexChoice("SQfp16", 2)), N)
    searcher = Searcher(store)
    part, cost = searcher.nearest(example, 40).rank_examples(example, 40)
    np.testing.assert_array_equal(part.ids, whole.ids[:40])
    np.testing.assert_allclose(part.scores, whole.scores[:40], atol=1e-6)
    assert cost.comparisons == 40
    assert len(searcher.nearest(example, None).snapshot) == 1000  # of an unverified search for all


def test_an_index_is_asked_for_every_view_of_a_query(store):
    first, *views = (Description((64, 48), vector, None) for vector in crowded(21, 3))
    example = [DescribedExample(first, views=tuple(views))]
    whole, _ = Searcher(store).rank_examples(example, None)
    cosines = [Searcher(store).rank(d, None, None)[0] for d in (first, *views)]
    best = np.max([ranking.scores[np.argsort(ranking.ids)] for ranking in cosines], axis=0)
    np.testing.assert_array_equal(whole.scores[np.argsort(whole.ids)], best)
    store.set_index(build_index(store, store.snapshot(), IndexChoice("SQfp16", 2)), N)
    part, _ = Searcher(store).nearest(example, 40).rank_examples(example, 40)
    np.testing.assert_array_equal(part.ids, whole.ids[:40])
    assert not np.isin(part.ids, Searcher(store).nearest([DescribedExample(first)], 40).snapshot.ids).all()


def test_a_part_is_ranked_as_in_the_whole(store):
    example = [DescribedExample(Description((64, 48), crowded(13, 1)[0], None))]
    searcher, rows = Searcher(store), np.arange(3, N, 7)
    whole, _ = searcher.rank_examples(example, None)
    part, _ = searcher.among(rows).rank_examples(example, None)
    kept = whole.ids[np.isin(whole.ids, searcher.snapshot.ids[rows])]
    np.testing.assert_array_equal(part.ids, kept)
    again, _ = searcher.among(rows).among(np.arange(0, len(rows), 2)).rank_examples(example, None)
    np.testing.assert_array_equal(again.ids, kept[np.isin(kept, searcher.snapshot.ids[rows[::2]])])


def test_reranking_sees_all_images_whatever_is_asked_for(tmp_path):
    recipe = plain(rerank=[{"method": "diffusion", "k": 5}])
    example = [DescribedExample(Description((64, 48), crowded(14, 1)[0], None))]
    with Store.create(tmp_path / "r", recipe, "f") as made:
        made.add(news(0, crowded(1, 400)), [], None)
        searcher, rows = Searcher(made), np.arange(0, 400, 3)
        whole, _ = searcher.rank_examples(example, None)
        part, _ = searcher.among(rows).rank_examples(example, None)
        assert searcher.nearest(example, 5) is searcher
        with pytest.raises(CollectionError, match="re-ranks all images"):
            build_index(made, made.snapshot(), IndexChoice("SQ8"))
    kept = np.isin(whole.ids, rows + 1)
    np.testing.assert_array_equal(part.ids, whole.ids[kept])
    np.testing.assert_array_equal(part.scores, whole.scores[kept])


def test_tuning_keeps_what_was_promised(store, monkeypatch):
    monkeypatch.setattr(index_tuning, "_PART", 2000)
    wanted = Wanted(recall=0.9, memory=N * 40, k=5)
    tuned = tune(store, wanted, queries=40, only=["SQ", "PQ", "IVF"])
    assert {t.choice.kind.split(",")[0][:3] for t in tuned.trials} >= {"exa", "SQf", "SQ8", "PQ8", "IVF"}
    too_large = [t for t in tuned.trials if t.choice.kind == "SQfp16"]
    assert all("MiB" in t.refused or "finds" in t.refused for t in too_large)
    for trial in tuned.trials:
        assert 0 <= trial.recall <= 1 and trial.rate > 0 and trial.together > 0
    assert not tuned.chosen.refused and tuned.chosen.recall >= 0.9
    if tuned.index is not None:
        assert tuned.chosen.images == len(tuned.index) == N
        assert tuned.index.bytes <= N * 40 and tuned.index.choice == tuned.chosen.choice


def test_recall_is_measured_against_all_others(store):
    """By hand: the share of the true nearest, the image itself apart, that an index of one cell visited finds."""
    bench = index_tuning._Bench(store, store.snapshot(), Wanted(k=7), 30, 5)
    index, _ = bench.build("IVF32,SQ8")
    measured = bench._recall(bench._nearest(index.asked(IndexChoice("IVF32,SQ8", 1, 1))))
    x = crowded(1, N)
    hits = 0
    for p in bench._asked:
        order = np.argsort(-(x @ x[p]), kind="stable")
        expected = [i for i in order if i != p][:7]
        got, _ = nearest_of(store, index).search(x[p][None], 8)
        hits += len(set(expected) & set([i for i in got[0].tolist() if i != p][:7]))
    assert measured == pytest.approx(hits / (30 * 7)) and measured < 1


def test_kinds_suit_their_dimension():
    for dimension in (3, 17, 128, 2176):
        for kind in kinds(dimension, 20_000):
            if kind != "PQ1x4fs" or dimension > 4:
                sample = np.random.default_rng(0).normal(size=(700, dimension)).astype(np.float32)
                VectorIndex.build(IndexChoice(kind.replace("IVF512", "IVF16")), sample, [(np.arange(700), sample)])


@pytest.mark.parametrize("wrong", [{"recall": 0}, {"recall": 1.1}, {"memory": 0}, {"k": 0}, {"build": 0}])
def test_what_cannot_be_wanted(wrong):
    with pytest.raises(ValueError, match="must be"):
        Wanted(**wrong)


def test_tuning_says_why_it_cannot(store, monkeypatch):
    with pytest.raises(CollectionError, match=r"no index is named LSH; there are SQfp16, SQ8, PQ8x4fs"):
        tune(store, Wanted(), only=["LSH"])
    monkeypatch.setattr(index_tuning, "FEW", N)
    with pytest.raises(CollectionError, match=r"has 4,000 images with a descriptor; up to 4,000 they are compared"):
        tune(store, Wanted())
