"""`resight tune`, and searching with and without what it chose."""

import json

import numpy as np
import pytest
from made_vectors import vector_news, vector_recipe

from resight.cli.tune import parse_size, tune
from resight.errors import CollectionError, QueryError
from resight.search import index_tuning, nearest
from resight.search.collection import Collection
from resight.store.store import Store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A collection of 1,500 made-up descriptors, which is many here."""
    monkeypatch.setattr(nearest, "FEW", 200)
    monkeypatch.setattr(index_tuning, "FEW", 200)
    x = np.random.default_rng(0).normal(size=(1500, 16)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    with Store.create(tmp_path / "c", vector_recipe(16), "f") as store:
        store.add(vector_news(0, x), [], None)
    return tmp_path / "c"


def test_it_measures_chooses_and_says_so(folder, capsys):
    tune(folder, recall=0.8, memory="1M", kind=["SQ"], quiet=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["images", "index", "depth", "effort"]
    assert [line.split()[1] for line in lines[1:4]] == ["exact", "SQfp16", "SQ8"]
    assert sum("chosen" in line for line in lines) == 1
    with Collection.open(folder) as opened:
        index = opened.info().index
    if index is None:  # on a machine where comparing all is faster
        assert "nothing that does is faster" in lines[-1]
    else:
        assert f"searched with {index['choice']['kind']} from now on" in lines[-1]


def test_json_and_going_back_to_exact(folder, capsys):
    tune(folder, recall=0.8, kind=["PQ"], k=3, json=True, quiet=True)
    said = json.loads(capsys.readouterr().out)
    assert said["chosen"] in said["trials"] and said["trials"][0]["choice"]["kind"] == "exact"
    tune(folder, exact=True)
    with Collection.open(folder) as opened:
        assert opened.info().index is None


def test_too_little_memory_for_any(folder, capsys):
    tune(folder, recall=0.8, memory="1K", quiet=True)
    said = capsys.readouterr().out
    assert "none does, and comparing all images needs" in said and "MiB" in said and "chosen" not in said


def test_an_index_slower_than_comparing_all_where_that_does_not_fit(folder, capsys):
    tune(folder, recall=0.8, memory="80K", kind=["SQfp16", "PQ"], quiet=True)  # all descriptors take 94 KiB
    said = capsys.readouterr().out
    assert "chosen" in said and "from now on" in said


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500 * 2**20), ("2G", 2**31), ("1.5k", 1536), ("12", 12), ("3 GiB", 3 * 2**30)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1M", "1X", "0M", "1,5G"])
def test_what_is_no_size(text):
    with pytest.raises(QueryError, match="is no size"):
        parse_size(text)


def test_a_recipe_without_global_descriptors_is_refused(indexed):
    with pytest.raises(CollectionError, match="does not search by one global descriptor"):
        tune(indexed, quiet=True)
