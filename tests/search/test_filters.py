"""Cosine similarity against NumPy, over stored vectors. (ASMK's similarity is tested in tests/store/test_store.py.)"""

import json

import numpy as np
import pytest
from safetensors.numpy import safe_open

from resight.describe.description import Description
from resight.errors import CollectionError
from resight.recipes import Recipe
from resight.search import filters
from resight.search.collection import Collection
from resight.search.filters import cosine_similarity
from resight.search.searcher import Searcher
from resight.store.store import New, Store

RECIPE = Recipe.model_validate(
    {"name": "vectors", "title": "-", "source": "-", "filter": "global", "global": {"network": "-", "dimensions": 4}}
)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture
def store(tmp_path, vectors):
    with Store.create(tmp_path / "c", RECIPE, "f00d") as made:
        for i, vector in enumerate(vectors):
            made.add([New(f"/{i}", "", 1, 2, Description((8, 8), vector, None))], [], None)
        made.remove([3])
        yield made


def kept(vectors: np.ndarray) -> np.ndarray:
    return np.delete(vectors, 2, axis=0)


@pytest.mark.parametrize("block", [3, 65536])
def test_similarity_is_the_inner_product(store, vectors, monkeypatch, block):
    monkeypatch.setattr(filters, "_BLOCK", block)
    length = vectors.shape[1]
    (found,) = cosine_similarity(store.snapshot(), store.vectors_log(), vectors[5], (length,)).T
    np.testing.assert_allclose(found, kept(vectors) @ vectors[5], atol=1e-6)
    parts = cosine_similarity(store.snapshot(), store.vectors_log(), vectors[5], (2, length - 2))
    expected = np.stack([kept(vectors)[:, :2] @ vectors[5][:2], kept(vectors)[:, 2:] @ vectors[5][2:]], axis=1)
    np.testing.assert_allclose(parts, expected, atol=1e-6)


def test_a_ranking_without_verification_is_by_similarity_and_accepts_all(store, vectors):
    ranking, timing = Searcher(store).rank(Description((8, 8), vectors[5], None), None, None)
    assert ranking.ids[0] == 6 and ranking.ids.tolist() == [
        np.delete(np.arange(1, 10), 2)[i] for i in np.argsort(-kept(vectors) @ vectors[5])
    ]
    assert not ranking.calibrated and ranking.evidence == (None,) * 8 and timing.comparisons == 8


def test_equal_similarities_are_ranked_by_id(store, vectors):
    store.add([New("/again", "", 1, 2, Description((8, 8), vectors[5], None))], [], None)
    ranking, _ = Searcher(store).rank(Description((8, 8), vectors[5], None), None, 2)
    assert ranking.ids.tolist() == [6, 10] and ranking.scores[0] == ranking.scores[1]


def test_an_image_without_a_vector_comes_last(store, vectors):
    store.add([New("/none", "", 1, 2, Description((8, 8), None, None))], [], None)
    ranking, _ = Searcher(store).rank(Description((8, 8), -vectors[5], None), None, None)
    assert (ranking.ids[-1], ranking.scores[-1]) == (10, -1)


def test_vectors_are_exported_with_their_ids_and_paths(store, vectors, tmp_path):
    store.close()
    with Collection.open(tmp_path / "c") as collection:
        for name in ("out.npz", "out.safetensors", "out"):
            form = (tmp_path / name).suffix[1:] or "npz"
            assert collection.export(tmp_path / name, format=form) == 8
    for name in ("out.npz", "out"):
        with np.load(tmp_path / name) as out:  # which refuses pickles
            np.testing.assert_array_equal(out["vectors"], kept(vectors))
            assert out["ids"].tolist() == [1, 2, 4, 5, 6, 7, 8, 9] and out["paths"][2] == "/3"
    with safe_open(tmp_path / "out.safetensors", "numpy") as out:
        np.testing.assert_array_equal(out.get_tensor("vectors"), kept(vectors))
        assert out.get_tensor("ids").tolist() == [1, 2, 4, 5, 6, 7, 8, 9]
        assert json.loads(out.metadata()["paths"])[2] == "/3"


def test_what_cannot_be_exported_is_said(store, tmp_path):
    store.close()
    with Collection.open(tmp_path / "c") as collection:
        with pytest.raises(CollectionError, match="choose csv, json, npz or safetensors"):
            collection.export(tmp_path / "out", format="xml")
        with pytest.raises(CollectionError, match=r"no/out\.csv: cannot be written: No such file"):
            collection.export(tmp_path / "no/out.csv", format="csv")
