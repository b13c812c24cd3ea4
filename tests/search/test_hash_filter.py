"""filter = "hash": images ranked by binary codes of their global descriptors, learned once and kept up with."""

import sys
from typing import get_args

import numpy as np
import pytest

from resight.describe.description import Description
from resight.errors import CollectionError, RecipeError
from resight.hashing.linear import fit_lsh
from resight.hashing.methods import METHODS
from resight.recipes import Recipe, load_recipe
from resight.recipes.recipe import HashStage, parse_recipe
from resight.search import searcher as searcher_module
from resight.search.examples import DescribedExample
from resight.search.searcher import Searcher
from resight.store import hash_codes
from resight.store.check import problems
from resight.store.hash_codes import codes_of, hash_function, refresh_codes
from resight.store.store import New, Store

D, BITS = 24, 16


def recipe(**table):
    base = load_recipe("mac").model_dump(by_alias=True, exclude={"hash"})
    base["global"] |= {"dimensions": D, "whiten": "none"}
    return Recipe.model_validate(base | {"filter": "hash", "hash": {"method": "itq", "bits": BITS} | table})


def vectors(seed, n):
    x = np.random.default_rng(seed).normal(size=(n, D)) + np.linspace(0, 1, D)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def add(store, first, x):
    store.add([New(f"/{first + i}", "d", 1, 1, Description((9, 9), v, None)) for i, v in enumerate(x)], [], None)
    refresh_codes(store, lambda _: None)


@pytest.fixture(params=["hamming", "asymmetric"])
def store(request, tmp_path):
    with Store.create(tmp_path / "c", recipe(distance=request.param), "f") as made:
        add(made, 0, vectors(1, 200))
        yield made


def ask(store, query):
    return Searcher(store).rank_examples([DescribedExample(Description((9, 9), query, None))], None)


def by_hand(store, query):
    """Image ids and similarities, from every bit of every code."""
    function = hash_function(store)
    searcher = Searcher(store)
    x = np.array([searcher.stored(p).global_descriptor for p in range(len(searcher.snapshot))])
    signs = np.where(function.project(x) > 0, 1.0, -1.0)
    asked = function.project(query[None])[0].astype(float)
    if store.recipe.hash.distance == "hamming":
        asked = np.where(asked > 0, 1.0, -1.0)
    similarity = signs @ asked / np.abs(asked).sum()
    order = np.lexsort((searcher.snapshot.ids, -np.round(similarity, 5)))
    return searcher.snapshot.ids[order], similarity[order]


def test_images_are_ranked_by_their_codes(store):
    for query in vectors(2, 5):
        ranking, cost = ask(store, query)
        ids, similarity = by_hand(store, query)
        np.testing.assert_allclose(ranking.scores, similarity, atol=1e-5)
        if store.recipe.hash.distance == "hamming":
            np.testing.assert_array_equal(ranking.ids, ids)
        assert cost.comparisons == 200


def test_new_images_get_codes_of_the_same_function(store):
    before = hash_function(store).fingerprint
    add(store, 200, vectors(3, 50))
    store.remove([5, 6, 7])
    assert hash_function(store).fingerprint == before
    query = vectors(4, 1)[0]
    ranking, _ = ask(store, query)
    assert len(ranking) == 247
    np.testing.assert_allclose(ranking.scores, by_hand(store, query)[1], atol=1e-5)


def test_codes_that_a_crash_lost_are_made_again(store):
    log = next(store.folder.glob("codes-*.log"))
    whole = codes_of(store, store.snapshot(), hash_function(store))
    log.write_bytes(log.read_bytes()[: 100 * (8 + BITS // 8 + 4) + 3])  # the 101st is cut
    np.testing.assert_array_equal(codes_of(store, store.snapshot(), hash_function(store)), whole)
    refresh_codes(store, lambda _: None)
    assert log.stat().st_size == 200 * (8 + BITS // 8 + 4)
    np.testing.assert_array_equal(codes_of(store, store.snapshot(), hash_function(store)), whole)


def test_a_damaged_code_is_found(store):
    log = next(store.folder.glob("codes-*.log"))
    content = bytearray(log.read_bytes())
    content[5 * (8 + BITS // 8 + 4) + 9] ^= 1
    log.write_bytes(content)
    (found,) = problems(store, lambda _: None)
    assert "codes-" in found and found.endswith("1 codes are damaged; `resight repair` makes them again")


def test_learning_anew_takes_the_old_function_away(store):
    before = hash_function(store).fingerprint
    add(store, 200, vectors(5, 300) * -1)
    refresh_codes(store, lambda _: None, again=True)
    function = hash_function(store)
    assert function.fingerprint != before and "500 images" in function.fitted_on
    store.remove([])  # a writer's next step sweeps
    assert len(list(store.folder.glob("codes-*.log"))) == 1
    np.testing.assert_allclose(ask(store, vectors(6, 1)[0])[0].scores, by_hand(store, vectors(6, 1)[0])[1], atol=1e-5)


def test_a_part_and_an_image_without_descriptor(store):
    store.add([New("/none", "d", 1, 1, Description((9, 9), None, None))], [], None)
    refresh_codes(store, lambda _: None)
    query = vectors(7, 1)[0]
    example = [DescribedExample(Description((9, 9), query, None))]
    whole, _ = ask(store, query)
    assert whole.scores[whole.ids.tolist().index(201)] == -1
    rows = np.arange(1, 201, 3)
    part, _ = Searcher(store).among(rows).rank_examples(example, None)
    np.testing.assert_array_equal(part.ids, whole.ids[np.isin(whole.ids, rows + 1)])


@pytest.mark.parametrize(
    ("distance", "index"),
    [("hamming", "scan"), ("hamming", "multi-index"), ("hamming", "inverted"), ("asymmetric", "scan")],
)
def test_of_many_images_the_first_are_found_by_an_index(tmp_path, monkeypatch, distance, index):
    monkeypatch.setattr(searcher_module, "FEW", 100)
    with Store.create(tmp_path / "c", recipe(distance=distance, index=index, bits=24), "f") as made:
        add(made, 0, vectors(1, 3000))
        searcher = Searcher(made)
        for query in vectors(9, 4):
            example = [DescribedExample(Description((9, 9), query, None))]
            whole, _ = searcher.rank_examples(example, None)
            part, cost = searcher.nearest(example, 1200).rank_examples(example, 1200)
            assert cost.comparisons == 1200
            np.testing.assert_array_equal(part.ids, whole.ids[:1200])  # so many that an inverted file gives way
            few, _ = searcher.nearest(example, 60).rank_examples(example, 60)
            shared = len(np.intersect1d(few.ids, whole.ids[:60]))
            assert len(few) == 60
            assert 20 < shared < 60 if index == "inverted" else shared == 60


def test_too_few_images_to_learn_from(tmp_path):
    with Store.create(tmp_path / "c", recipe(), "f") as made:
        add(made, 0, vectors(1, BITS))
        assert hash_function(made) is None
        with pytest.raises(CollectionError, match=f"its {BITS} images are too few to learn a hash function"):
            ask(made, vectors(1, 1)[0])
        add(made, BITS, vectors(2, 1))
        assert len(ask(made, vectors(1, 1)[0])[0]) == BITS + 1


def test_a_function_from_a_file(tmp_path):
    fit_lsh(D, 32, seed=3, fitted_on="elsewhere").save(tmp_path / "f.safetensors")
    fit_lsh(D + 1, 32, seed=3, fitted_on="elsewhere").save(tmp_path / "wrong.safetensors")
    with Store.create(tmp_path / "c", recipe(path=str(tmp_path / "f.safetensors")), "f") as made:
        add(made, 0, vectors(1, 3))
        (tmp_path / "f.safetensors").unlink()  # the collection has its own
        assert hash_function(made).fitted_on == "elsewhere" and hash_function(made).bits == 32
        np.testing.assert_allclose(ask(made, vectors(2, 1)[0])[0].scores, by_hand(made, vectors(2, 1)[0])[1], atol=1e-5)
    with (
        Store.create(tmp_path / "d", recipe(path=str(tmp_path / "wrong.safetensors")), "f") as made,
        pytest.raises(RecipeError, match="hashes 25 entries, and recipe mac has descriptors of 24"),
    ):
        add(made, 0, vectors(1, 3))


def test_a_damaged_function_is_named(store):
    path = store.folder / store.catalogue.get("hash")
    assert problems(store, lambda _: None) == []
    path.write_bytes(b"nothing")
    assert [line for line in problems(store, lambda _: None) if "resight refit" in line]
    with pytest.raises(CollectionError, match=r"hash-.*resight refit"):
        ask(store, vectors(1, 1)[0])


def test_more_than_a_block_is_encoded_in_order(store, monkeypatch):
    from resight.store import vector_indexing

    monkeypatch.setattr(vector_indexing, "_BLOCK", 17)
    query = vectors(8, 1)[0]
    before = ask(store, query)[0]
    next(store.folder.glob("codes-*.log")).unlink()
    refresh_codes(store, lambda _: None)
    np.testing.assert_array_equal(ask(store, query)[0].ids, before.ids)
    assert hash_codes._SAMPLE > 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('filter = "hash"\n[global]\nnetwork = "vgg16"', r"needs the table \[hash\]"),
        ('filter = "global"\n[global]\nnetwork = "vgg16"\n[hash]\nbits = 64', r'\[hash\] needs filter = "hash"'),
        ('filter = "hash"\n[global]\nnetwork = "vgg16"\n[hash]\nbits = 65', "hash.bits"),
        (
            'filter = "hash"\n[global]\nnetwork = "vgg16"\n[hash]\ndistance = "asymmetric"\nindex = "inverted"',
            "is found by a scan",
        ),
        ('filter = "hash"\n[global]\nnetwork = "vgg16"\n[hash]\nmethod = "sift"', "hash.method"),
        ('filter = "hash"\n[global]\nnetwork = "vgg16"\n[hash]\nmethod = "ssdh"', 'method = "ssdh" goes with path'),
    ],
)
def test_tables_that_do_not_fit(text, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe(f'name = "n"\ntitle = "t"\nsource = "s"\n{text}', "r", None)


def test_where_the_function_lies_is_no_part_of_the_fingerprint():
    assert recipe(path="/a").fingerprint == recipe(path="/b").fingerprint != recipe(bits=32).fingerprint


@pytest.mark.parametrize("method", ["dsth", "rbm", "autoencoder"])
def test_methods_that_learn_by_turns_or_descent(tmp_path, method):
    pytest.importorskip("torch")
    with Store.create(tmp_path / "c", recipe(method=method), "f") as made:
        add(made, 0, vectors(1, BITS + 1))
        assert (hash_function(made) is None) == (method == "dsth")  # which takes one photo more
        add(made, BITS + 1, vectors(2, 40))
        refresh_codes(made, lambda _: None, again=True)
        function = hash_function(made)
        assert (function.kind, function.bits, function.fitted_on) == (method, BITS, "the collection itself, 57 images")
        query = vectors(4, 1)[0]
        ranking, _ = ask(made, query)
        np.testing.assert_allclose(ranking.scores, by_hand(made, query)[1], atol=1e-5)
    with Store(tmp_path / "c", write=False) as again:
        assert hash_function(again).fingerprint == function.fingerprint
        np.testing.assert_array_equal(ask(again, query)[0].scores, ranking.scores)


def test_without_torch_the_collection_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "resight.hashing.rbm", raising=False)
    with (
        Store.create(tmp_path / "c", recipe(method="rbm"), "f") as made,
        pytest.raises(RecipeError, match=r"rbm needs torch: pip install 'resight\[deep\]'"),
    ):
        add(made, 0, vectors(1, 40))


def test_what_a_recipe_learns_from_is_what_its_method_needs():
    methods = get_args(HashStage.model_fields["method"].annotation)
    assert set(methods) == set(METHODS) - {"regional"}
    for method in methods:
        stage = HashStage(method=method, path="/h.safetensors")
        assert stage.from_file == (METHODS[method].needs != "vectors")
