"""Collections that grow while they are served, by a job of the service or by another process."""

import threading
import time

import numpy as np
import pytest

import resight as rs
from resight.errors import CollectionError
from resight.search.collection import Collection
from resight.server.jobs import Work


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
