"""What is damaged is put back in its place wherever it can be."""

import sqlite3

import numpy as np
import pytest

from resight.describe.description import Description
from resight.images.sources import Source
from resight.store import repair
from resight.store.check import Damage
from resight.store.store import VECTORS, New
from resight.store.workers import Outcome


@pytest.mark.parametrize("count", [0, 5])
def test_a_vector_is_put_back_also_of_an_image_without_local_features(store, made_up, count):
    vector, local = np.arange(8, dtype=np.float32), made_up(1, count)
    store.add([New("/a", "digest", 1, 2, Description((640, 480), vector, local))], [], None)
    whole = (store.data / VECTORS).read_bytes()
    (store.data / VECTORS).write_bytes(bytes(len(whole)))
    outcome = Outcome(Source("/a", 1, 2), "digest", (640, 480), local)
    assert not repair._put_back(store, 1, outcome, vector + 1)
    assert not repair._put_back(store, 1, outcome, None)
    assert not any((store.data / VECTORS).read_bytes())
    assert repair._put_back(store, 1, outcome, vector)
    assert (store.data / VECTORS).read_bytes() == whole


def test_more_images_are_described_again_than_a_query_has_room_for(store, made_up, monkeypatch):
    store.add([New(f"/{n}", "digest", 1, 2, Description((6, 4), None, made_up(n, 1))) for n in range(3)], [], None)
    asked = []

    def outcomes(describer, sources, *_):
        asked.extend(source.origin for source in sources)
        yield from (Outcome(source, reason="the file does not exist") for source in sources)

    monkeypatch.setattr(repair.indexing, "outcomes_of", outcomes)
    monkeypatch.setattr(repair.indexing, "described", lambda describer, found: ((one, None) for one in found))
    store.catalogue._db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 2)  # 32,766 of most libraries
    found = [Damage("description", "", image=image) for image in range(1, 4)]
    assert repair._describe_again(store, None, found, lambda _: None) == []
    assert asked == ["/0", "/1", "/2"]
