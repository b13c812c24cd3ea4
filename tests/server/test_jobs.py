"""Collections that grow while they are served, by a job of the service or by another process."""

import threading
import time

import numpy as np
import pytest

import resight as rs
from resight.errors import CollectionError
from resight.search.collection import Collection
from resight.server.jobs import Work
from resight.store.where_text import parse_where


@pytest.fixture
def extra(tmp_path, pictures, save):
    """A folder of one photo that the collection does not have."""
    save(tmp_path / "extra" / "new.png", np.ascontiguousarray(pictures["astronaut"][::-1]))
    return tmp_path / "extra"


def test_what_another_process_writes_is_found_and_running_searches_keep_their_state(serve, own, extra):
    found = serve(own)
    with rs.connect(found.url) as remote:
        query = extra / "new.png"
        before = remote.search(query)
        old, _ = found.app.service.readers.searchable()
        with Collection.open(own, write=True) as writer:
            writer.add([extra], workers=1)
            new = writer.find(str(query))
        until = time.monotonic() + 10
        while new not in (after := remote.search(query)).ids and time.monotonic() < until:
            time.sleep(0.05)
        assert after.ids[0] == new and len(after) == len(before) + 1
        np.testing.assert_array_equal(old.search(query).scores, before.scores)
        with Collection.open(own, write=True) as writer:
            writer.remove([new])
        while new in (last := remote.search(query)).ids and time.monotonic() < until + 10:
            time.sleep(0.05)
        np.testing.assert_array_equal(last.ids, before.ids)


def test_a_writer_elsewhere_is_an_error_of_the_job_and_not_of_the_service(serve, own, extra):
    found = serve(own, write=True, photos=(extra,))
    with rs.connect(found.url) as remote:
        with Collection.open(own, write=True), pytest.raises(CollectionError, match="another process"):
            remote.add([extra])
        assert remote.add([extra]).added == 1
    with Collection.open(own, write=True):
        answer = found.http.patch("/v1/metadata", json={"facts": {"1": {"place": "attic"}}})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert found.http.patch("/v1/metadata", json={"facts": {"1": {"place": "attic"}}}).status_code == 204


def test_an_empty_collection_says_that_it_is_not_ready_and_becomes_so(serve, tmp_path, recipe, photos):
    with Collection.create(tmp_path / "new", recipe):
        pass
    found = serve(tmp_path / "new", write=True, photos=(photos,))
    assert found.http.get("/v1/collection").json()["images"] == 0
    with rs.connect(found.url) as remote:
        remote.add([photos / "coffee-1.png", photos / "coffee-2.jpg", photos / "moon.png", photos / "rocket-1.png"])
        ranking = remote.search(photos / "coffee-2.jpg")
        assert len(ranking) == 4 and ranking.accepted == 2


def test_progress_is_told_and_a_cancelled_job_stops(serve, own, extra, monkeypatch):
    go, progress = threading.Event(), Work.progress

    def slow(self, state):
        assert go.wait(20)
        progress(self, state)

    monkeypatch.setattr(Work, "progress", slow)
    found = serve(own, write=True, photos=(extra,))
    first, second = (found.http.post("/v1/jobs", json={"kind": "add", "paths": [str(extra)]}).json() for _ in range(2))
    assert found.http.delete(f"/v1/jobs/{first['job']}").status_code == 204
    go.set()
    texts = []
    for job in (first, second):
        with found.http.stream("GET", f"/v1/jobs/{job['job']}/events") as events:
            texts.append(events.read().decode())
    assert "event: failed" in texts[0] and '"cancelled"' in texts[0]
    assert "event: progress" in texts[1] and "event: done" in texts[1]
    states = {job["job"]: job["state"] for job in found.http.get("/v1/jobs").json()["jobs"]}
    assert (states[first["job"]], states[second["job"]]) == ("cancelled", "done")
    assert len(found.app.service.live) == 13


def test_duplicates_are_found_shown_and_decided_about(serve, own, tmp_path, pictures, save):
    folder = tmp_path / "copies"
    save(folder / "copy.png", pictures["chelsea"])
    with Collection.open(own, write=True) as writer:
        writer.add([folder], workers=1)
        copy = writer.find(str(folder / "copy.png"))
    found = serve(own, write=True)
    with rs.connect(found.url) as remote:
        assert found.http.get("/v1/duplicates").json()["uncompared"] == 13
        assert remote.find_duplicates() == 13
        with Collection.open(own) as local:
            assert remote.duplicates() == local.duplicates()
        page = found.http.get("/v1/duplicates?limit=1").json()
        (mine,) = [c for c in remote.duplicates() if copy in c.images]
        assert (page["total"], page["uncompared"]) == (len(remote.duplicates()), 0) and len(page["clusters"]) == 1
        name = f"d{mine.images[0]}"
        put = found.http.put(f"/v1/duplicates/{name}/decision", json={"decision": "different"})
        assert put.status_code == 204
        (mine,) = [c for c in remote.duplicates() if copy in c.images]
        assert mine.decision == "different"
        assert found.http.put(f"/v1/duplicates/{name}/decision", json={"decision": None}).status_code == 409
        remote.decide_duplicates(mine.images, "duplicates")
        (mine,) = [c for c in remote.duplicates() if copy in c.images]
        assert mine.decision == "duplicates"
    reader = serve(own)
    assert reader.http.put(f"/v1/duplicates/{name}/decision", json={"decision": None}).status_code == 403


@pytest.fixture
def held(monkeypatch):
    """Holds every job that tells its progress until the event is set."""
    go, progress = threading.Event(), Work.progress

    def slow(self, state):
        assert go.wait(20)
        progress(self, state)

    monkeypatch.setattr(Work, "progress", slow)
    yield go
    go.set()


def test_a_job_that_is_cancelled_while_it_waits_is_never_begun(serve, own, extra, held):
    found = serve(own, write=True, photos=(extra,))
    add = found.http.post("/v1/jobs", json={"kind": "add", "paths": [str(extra)]}).json()["job"]
    remove = found.http.post("/v1/jobs", json={"kind": "remove", "images": [1]}).json()["job"]
    assert found.http.delete(f"/v1/jobs/{remove}").status_code == 204
    held.set()
    for job in (add, remove):
        found.http.get(f"/v1/jobs/{job}/events")
    assert found.http.get(f"/v1/jobs/{remove}").json()["state"] == "cancelled"
    assert found.http.get("/v1/images/1").status_code == 200


def test_jobs_that_wait_are_bounded(serve, own, extra, held):
    found = serve(own, write=True, photos=(extra,))
    answers = [found.http.post("/v1/jobs", json={"kind": "add", "paths": [str(extra)]}) for _ in range(17)]
    assert [a.status_code for a in answers] == [202] * 16 + [503] and answers[16].headers["retry-after"]
    for answer in answers[:16]:
        found.http.delete(f"/v1/jobs/{answer.json()['job']}")


def test_a_photo_whose_file_is_gone_is_told_as_missing_and_removed_as_such(serve, own, extra):
    def in_folders():
        return sum(folder["images"] for folder in found.http.get("/v1/folders").json()["folders"])

    found = serve(own, write=True, photos=(extra,))
    with rs.connect(found.url) as remote:
        remote.add([extra])
        new = remote.find(str(extra / "new.png"))
        (extra / "new.png").unlink()
        remote.add([extra])
        assert [found.http.get(f"/v1/images/{i}").json()["missing"] for i in (1, new)] == [False, True]
        assert remote.remove([], missing=True) == 1 and len(remote) == 12 == in_folders()
        first = remote.entry(1)
        assert remote.remove([first.origin]) == 1 and remote.find(first.origin) is None
        assert in_folders() == 11


def test_what_a_job_adds_is_found_at_once_and_what_others_add_not_at_the_cost_of_searches(
    serve, own, extra, photos, monkeypatch
):
    monkeypatch.setattr("resight.server.readers._SHARE", 1e9)  # as if taking up a state took very long
    found = serve(own, write=True, photos=(extra,))
    with rs.connect(found.url) as remote:
        assert len(remote.search(1)) == 12
        with Collection.open(own, write=True) as writer:
            writer.remove([12])
        assert len(remote.search(1)) == 12
        remote.add([extra])
        assert remote.search(extra / "new.png").ids[0] == remote.find(str(extra / "new.png"))


def test_a_state_that_could_not_be_taken_up_is_tried_again(serve, own, monkeypatch):
    def fails(self):
        raise CollectionError("not yet")

    readers = serve(own).app.service.readers
    _, before = readers.searchable()
    with Collection.open(own, write=True) as writer:
        writer.remove([12])
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "reopened", fails)
        assert readers.searchable(now=True)[1] == before and readers.why == "not yet"
    collection, after = readers.searchable(now=True)
    assert (len(collection.search(1)), readers.why) == (11, None) and after != before


def test_a_condition_brings_nothing_that_came_after_the_state_that_is_searched(own, extra):
    where = parse_where("path = new.png or path = coffee-1.png")
    with Collection.open(own) as reader:
        (coffee,) = reader.search(1, where=where).ids
        with Collection.open(own, write=True) as writer:
            writer.add([extra], workers=1)
        assert len(reader.matching(where)) == 2
        assert reader.search(1, where=where).ids.tolist() == [coffee]
