"""Pages of clusters, and decisions about some of a cluster's images and about no others."""

import pytest

import resight as rs
from resight.search.collection import Collection
from resight.store.duplicates import Pair, keep


@pytest.fixture
def decided(own):
    """The collection with three clusters of two that were decided about: (1, 2), (3, 4) and (5, 6)."""
    with Collection.open(own, write=True) as writer:
        for low in (1, 3, 5):
            writer.decide_duplicates([low, low + 1], "duplicates")
    return own


def shown(found, **params):
    return found.http.get("/v1/duplicates", params=params).json()


def test_clusters_come_in_pages_without_a_gap(serve, decided):
    found = serve(decided)
    pages = [shown(found, after=after, limit=2) for after in (0, 2)]
    assert [[i["id"] for i in c["images"]] for page in pages for c in page["clusters"]] == [[1, 2], [3, 4], [5, 6]]
    assert [(page["next"], page["total"]) for page in pages] == [(2, 3), (None, 3)]
    assert shown(found, limit=3)["next"] is None


def test_a_decision_reaches_only_images_of_its_cluster(serve, decided):
    found = serve(decided, write=True)
    before = shown(found)
    for images, status in (([1, 3], 409), ([1, 999], 409), (list(range(1, 502)), 409)):
        put = found.http.put("/v1/duplicates/d1/decision", json={"decision": "different", "images": images})
        assert put.status_code == status
    for images in ([], None, list(range(1, 502))):
        put = found.http.put("/v1/duplicates/decision", json={"decision": "different", "images": images})
        assert put.status_code == 422
    assert "at most 500" in put.json()["error"]["message"]
    assert found.http.put("/v1/duplicates/d2/decision", json={"decision": None}).status_code == 409
    assert shown(found) == before
    assert found.http.put("/v1/duplicates/d3/decision", json={"decision": None, "images": [3, 4]}).status_code == 204
    assert [c["cluster"] for c in shown(found)["clusters"]] == ["d1", "d5"]


def test_another_limit_gives_the_same_clusters_there_and_here(serve, own):
    with Collection.open(own, write=True) as writer:
        keep(writer._store.catalogue, [1, 2, 3], [Pair(1, 2, 0.6, 30), Pair(3, 4, 0.9, 20)])
    found = serve(own, write=True)
    with rs.connect(found.url) as remote, Collection.open(own) as local:
        for limit, images in ((0.5, [(1, 2), (3, 4)]), (0.8, [(3, 4)]), (0.95, [])):
            assert remote.duplicates(overlap=limit) == local.duplicates(overlap=limit)
            assert [cluster.images for cluster in local.duplicates(overlap=limit)] == images
        put = found.http.put("/v1/duplicates/d1/decision?overlap=0.5", json={"decision": "duplicates"})
        assert put.status_code == 204 and local.duplicates()[-1].images == (1, 2)
