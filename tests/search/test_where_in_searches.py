"""Searches among the images of which a condition is true."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from resight.errors import QueryError
from resight.search.collection import Collection
from resight.search.examples import Example
from resight.search.searcher import Searcher
from resight.store.matching import matching_ids
from resight.store.store import Store
from resight.store.where import All, Contains, Equals, Not


def view(entry):
    """2 where its file is a second view. Not asked of the whole path, as the folders above may be called anything."""
    return 2 if Path(entry.origin).stem.endswith("-2") else 1


@pytest.fixture(scope="module")
def collection(indexed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("where") / "c"
    shutil.copytree(indexed, folder)
    with Collection.open(folder, write=True) as opened:
        opened.set_metadata({entry.id: {"view": view(entry), "kind": "png"} for entry in opened.entries()})
        yield opened


def test_only_images_that_fulfil_the_condition_are_ranked_as_they_would_be(collection, photos):
    query = photos / "coffee-1.png"
    whole, part = collection.search(query), collection.search(query, where=Equals("view", 2))
    second = {entry.id for entry in collection.entries() if view(entry) == 2}
    assert 0 < len(part) == len(second) < len(whole)
    kept = np.isin(whole.ids, list(second))
    np.testing.assert_array_equal(part.ids, whole.ids[kept])
    np.testing.assert_array_equal(part.scores, whole.scores[kept])
    assert part.accepted == 1 and "coffee-2" in collection.entry(int(part.ids[0])).origin
    assert part.evidence[0].inliers == whole.evidence[whole.ids.tolist().index(part.ids[0])].inliers


def test_with_a_box_several_examples_and_what_no_image_fulfils(collection, photos):
    query = photos / "coffee-1.png"
    where = All((Equals("view", 1), Not(Contains("path", "coffee"))))
    assert collection.search(query, box=(20, 20, 300, 200), where=where).accepted == 0
    examples = [Example(query), Example(photos / "chelsea-1.png")]
    found = collection.search_examples(examples, where=Equals("view", 2))
    names = [collection.entry(int(i)).origin for i in found.ids[: found.accepted]]
    assert sorted(name.rsplit("/", 1)[1] for name in names) == ["chelsea-2.jpg", "coffee-2.jpg"]
    nothing = collection.search(query, where=Equals("kind", "no such"))
    assert len(nothing) == 0 and nothing.accepted == 0


def test_the_shortlist_is_filled_from_those_images_alone(collection, photos):
    """Two are verified, whichever images are ranked."""
    recipe = collection.recipe.model_copy(
        update={"verify": collection.recipe.verify.model_copy(update={"shortlist": 2})}
    )
    with Store(collection._store.folder, write=False) as store:
        searcher = Searcher(store, recipe)
        query = searcher.stored(0)
        whole, _ = searcher.rank(query, None, None)
        rows = searcher.snapshot.positions(matching_ids(store.catalogue, Equals("view", 2)))
        part, _ = searcher.among(rows).rank(query, None, None)
    assert sum(e is not None for e in whole.evidence) == sum(e is not None for e in part.evidence) == 2


def test_a_fact_that_no_image_has(collection, photos):
    with pytest.raises(QueryError, match="no image has metadata veiw; did you mean view"):
        collection.search(photos / "coffee-1.png", where=Equals("veiw", 2))
