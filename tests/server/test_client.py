"""A collection at a URL gives what the same collection in its folder gives: values and errors."""

import threading

import numpy as np
import PIL.Image
import pytest

import resight as rs
from resight.errors import ImageError, QueryError, ServiceError
from resight.images import read_image
from resight.search.collection import Collection
from resight.search.examples import Example
from resight.search.searcher import Searcher
from resight.server.client import RemoteCollection
from resight.store.where_text import parse_where


@pytest.fixture(scope="module")
def local(indexed):
    with Collection.open(indexed) as opened:
        yield opened


@pytest.fixture(scope="module")
def remote(served):
    with rs.connect(served.url) as connected:
        yield connected


def same_evidence(one, two):
    if one is None or two is None:
        assert one is two
        return
    for name in ("inliers", "matches", "box", "example", "agreement"):
        assert getattr(one, name) == getattr(two, name)
    for name in ("homography", "outline", "query_xy", "result_xy"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype and a.shape == b.shape
    assert len(one.others) == len(two.others)


def same(one, two):
    np.testing.assert_array_equal(one.ids, two.ids)
    np.testing.assert_array_equal(one.scores, two.scores)
    for name in ("threshold", "calibrated", "place"):
        assert getattr(one, name) == getattr(two, name)
    assert one.scores.dtype == two.scores.dtype
    for a, b in zip(one.evidence, two.evidence, strict=True):
        same_evidence(a, b)


def test_searches_give_the_same_rankings_with_all_their_evidence(local, remote, photos):
    path, image_id = photos / "coffee-2.jpg", local.find(str(photos / "rocket-1.png"))
    same(remote.search(path), local.search(path))
    same(remote.search(image_id, top=3), local.search(image_id, top=3))
    same(remote.search(read_image(path), box=(20, 20, 250, 180)), local.search(path, box=(20, 20, 250, 180)))
    examples = [Example(photos / "chelsea-1.png"), Example(image_id, (10, 10, 200, 150)), Example(path, weight=-0.2)]
    same(remote.search_examples(examples), local.search_examples(examples))
    where = parse_where("width < 300 or path = coffee-1.png")
    assert 0 < len(local.search(path, where=where)) < 12
    same(remote.search(path, where=where), local.search(path, where=where))


def test_what_the_collection_knows_is_the_same(local, remote, photos):
    assert list(remote.entries()) == list(local.entries())
    assert list(remote.entries(after=3, limit=4)) == list(local.entries(after=3, limit=4))
    assert (len(remote), remote.info(), remote.fingerprint) == (len(local), local.info(), local.fingerprint)
    assert list(remote.failures()) == list(local.failures())
    assert remote.metadata_keys() == local.metadata_keys()
    for entry in local.entries():
        assert remote.find(entry.origin) == entry.id and remote.entry(entry.id) == entry
        assert (remote.metadata(entry.id), remote.digest(entry.id)) == (
            local.metadata(entry.id),
            local.digest(entry.id),
        )
    assert remote.find("coffee-1.png") is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda c, p: c.search(999),
        lambda c, p: c.entry(999),
        lambda c, p: c.search(p / "coffee-1.png", box=(0, 0, 5000, 10)),
        lambda c, p: c.search_examples([]),
        lambda c, p: c.search_examples([Example(1, weight=-1)]),
        lambda c, p: c.search(1, where=parse_where("no_such_key = 1")),
        lambda c, p: c.search(p / "there-is-none.jpg"),
        lambda c, p: c.search(p / "homographies.json"),
    ],
)
def test_errors_are_the_same_exceptions(local, remote, photos, wrong):
    with pytest.raises((QueryError, ImageError)) as here:
        wrong(local, photos)
    with pytest.raises((QueryError, ImageError)) as there:
        wrong(remote, photos)
    assert here.type is there.type or (here.type is QueryError and "example 1" in str(here.value))


def test_an_interrupt_ends_a_search_and_one_that_somebody_ended_is_an_error(serve, indexed, monkeypatch):
    found, go, paths = serve(indexed), threading.Event(), []
    tell, get = Searcher._tell, RemoteCollection._get

    def interrupted(self, path, **params):
        paths.append(path)
        raise KeyboardInterrupt

    def ended(self, path, **params):
        found.http.delete(path)
        return get(self, path, **params)

    monkeypatch.setattr(Searcher, "_tell", lambda self, *what: go.wait(20) and tell(self, *what))
    with rs.connect(found.url) as remote:
        monkeypatch.setattr(RemoteCollection, "_get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remote.search(1)
        assert found.http.get(paths[0]).json()["state"] == "cancelled"
        monkeypatch.setattr(RemoteCollection, "_get", ended)
        with pytest.raises(ServiceError, match="cancelled"):
            remote.search(2)
    go.set()


def test_a_reduced_picture_is_refused_because_its_boxes_would_be_wrong(remote, photos):
    with pytest.raises(QueryError, match="reduced"):
        remote.search(read_image(photos / "coffee-1.png", max_side=100))


def test_where_nothing_answers_the_error_says_so(served):
    with pytest.raises(ServiceError, match="does not answer"):
        rs.connect("http://127.0.0.1:9", patience=1)
    with pytest.raises(ServiceError, match="https"):
        rs.connect("http://photos.example.org", "a token of some length")


def test_a_remote_writer_adds_removes_and_gives_facts(serve, own, tmp_path, pictures, save):
    extra = tmp_path / "extra"
    save(extra / "mosaic.png", np.ascontiguousarray(pictures["coffee"][::-1, ::-1]))
    found, seen = serve(own, write=True, photos=(extra,)), []
    with rs.connect(found.url) as remote:
        before = len(remote)
        report = remote.add([extra], progress=seen.append)
        assert (report.added, report.failed, len(remote)) == (1, 0, before + 1) and seen
        new = remote.find(str(extra / "mosaic.png"))
        assert remote.search(extra / "mosaic.png").ids[0] == new  # at once: it waits for no later refresh
        remote.set_metadata({new: {"room": "blue", "year": 1900}})
        assert remote.metadata(new) == {"room": "blue", "year": 1900}
        with pytest.raises(ValueError, match="width"):
            remote.set_metadata({new: {"width": 3}})
        assert remote.remove([new]) == 1 and len(remote) == before
        assert new not in remote.search(PIL.Image.open(extra / "mosaic.png")).ids
