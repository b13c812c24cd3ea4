"""Searches that are told step by step, shared, bounded, cancelled, timed out, and found again by their links."""

import csv
import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from resight.images.apart import run_apart
from resight.search.collection import Collection
from resight.search.searcher import Searcher
from resight.server.problems import Refused
from resight.server.settings import Settings

ASKED = {"examples": [{"image": 1}], "top": 12}


@pytest.fixture
def held(monkeypatch):
    """Holds every verification at its first image until the event is set; counts them."""
    go, verify, begun = threading.Event(), Searcher._tell, []

    def slow(self, position, evidence, of):
        begun.append(position)
        assert go.wait(20)
        verify(self, position, evidence, of)

    monkeypatch.setattr(Searcher, "_tell", slow)
    yield go, begun
    go.set()


def events(found, name, **headers):
    with found.http.stream("GET", f"/v1/searches/{name}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = answer.read().decode().strip().split("\n\n")
    parsed = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    return [(int(e["id"]), e["event"], json.loads(e["data"])) for e in parsed]


def start(found, **changes):
    return found.http.post("/v1/searches", json=ASKED | changes)


def test_events_tell_the_first_ranking_then_each_verified_image_then_the_end(served, indexed):
    name = start(served).json()["search"]
    told = events(served, name)
    assert [number for number, _, _ in told] == list(range(1, len(told) + 1))
    assert [kind for _, kind, _ in told] == ["filtered", *["verified"] * 12, "done"]
    with Collection.open(indexed) as local:
        ranking = local.search(1)
    score = dict(zip(ranking.ids.tolist(), ranking.scores.tolist(), strict=True))
    inliers = {i: e.inliers for i, e in zip(ranking.ids.tolist(), ranking.evidence, strict=True)}
    for _, _, result in told[1:-1]:
        assert result["score"] == score[result["image"]]
        assert result["evidence"]["inliers"] == inliers[result["image"]]
        assert result["accepted"] == (score[result["image"]] >= ranking.threshold)
    assert told[-1][2]["accepted"] == ranking.accepted
    assert events(served, name, **{"Last-Event-ID": "11"}) == told[11:]


def test_the_result_is_paged_and_each_has_its_evidence(served, indexed):
    found = served.wait(start(served).json()["search"])
    pages = [served.http.get(f"/v1/searches/{found['search']}?after={a}&limit=5").json()["results"] for a in (0, 5, 10)]
    assert [*pages[0], *pages[1], *pages[2]] == found["results"] and [len(page) for page in pages] == [5, 5, 2]
    best = found["results"][1]
    full = served.http.get(f"/v1/searches/{found['search']}/results/{best['image']}").json()["evidence"]
    with Collection.open(indexed) as local:
        ranking = local.search(1)
    truth = ranking.evidence[ranking.ids.tolist().index(best["image"])]
    assert full["homography"] == truth.homography.tolist() and full["query_xy"] == truth.query_xy.tolist()
    assert served.http.get(f"/v1/searches/{found['search']}/results/999").status_code == 404


def test_one_request_with_a_picture_gives_the_result(served, photos):
    files = {"image": (photos / "chelsea-2.jpg").read_bytes()}
    asked = {"examples": [{"image": "#0", "box": [10, 10, 200, 150]}], "top": 3}
    found = served.http.post("/v1/search", files=files, data={"request": json.dumps(asked)}).json()
    names = {result["name"] for result in found["results"] if result["accepted"]}
    assert found["state"] == "done" and names == {"chelsea-1.png", "chelsea-2.jpg"}
    plain = served.http.post("/v1/search", files=files).json()
    assert plain["results"][0]["name"] == "chelsea-2.jpg"
    both = [("image", files["image"]), ("image", (photos / "coffee-2.jpg").read_bytes())]
    best = served.http.post("/v1/search", files=both).json()["results"]
    assert {result["name"] for result in best if result["accepted"]} >= {"chelsea-2.jpg", "coffee-2.jpg"}
    wrong = served.http.post("/v1/search", files=files, data={"request": '{"examples": "all"}'})
    assert wrong.status_code == 422 and "examples" in wrong.json()["error"]["message"]


def test_exports_hold_the_whole_result_and_are_never_shown_in_place(served):
    found = served.wait(start(served).json()["search"])
    answers = {f: served.http.get(f"/v1/searches/{found['search']}/export?format={f}") for f in ("csv", "json", "html")}
    assert all(a.headers["content-disposition"].startswith("attachment") for a in answers.values())
    rows = list(csv.DictReader(io.StringIO(answers["csv"].text)))
    assert [int(row["id"]) for row in rows] == [result["image"] for result in found["results"]]
    assert [row["path"].rpartition("/")[2] for row in rows] == [result["name"] for result in found["results"]]
    assert [r["score"] for r in answers["json"].json()["results"]] == [r["score"] for r in found["results"]]
    assert answers["html"].text.count('<li class="card') == 12


def test_a_link_is_good_after_a_restart(serve, indexed, upload, tmp_path):
    state = tmp_path / "kept"
    first = serve(indexed, state=state)
    query = upload(first)
    before = first.wait(start(first, examples=[{"image": query}]).json()["search"])
    second = serve(indexed, state=state)
    after = second.wait(before["search"])
    assert after["results"] == before["results"] and after["request"] == before["request"]
    assert second.http.get(f"/v1/queries/{query}/picture?side=64").status_code == 200


def test_equal_requests_share_a_search_which_ends_only_for_all(served, held):
    go, _ = held
    one, two = start(served, top=7).json(), start(served, top=7).json()
    other = start(served, top=8).json()["search"]
    assert one["search"] == two["search"] != other
    served.http.delete(f"/v1/searches/{one['search']}")
    go.set()
    assert served.wait(one["search"])["state"] == served.wait(other)["state"] == "done"


def test_a_cancelled_search_stops_before_its_next_image(serve, indexed, held):
    go, begun = held
    found = serve(indexed)
    name = start(found).json()["search"]
    while not begun:
        time.sleep(0.01)
    assert found.http.delete(f"/v1/searches/{name}").status_code == 204
    go.set()
    ended = found.wait(name)
    assert (ended["state"], ended["results"], len(begun)) == ("cancelled", [], 1)


def test_who_asks_for_what_another_has_just_cancelled_gets_a_search_of_his_own(serve, indexed, held):
    go, begun = held
    found = serve(indexed)
    name = start(found).json()["search"]
    while not begun:
        time.sleep(0.01)
    found.http.delete(f"/v1/searches/{name}")
    again = start(found).json()["search"]
    go.set()
    assert again != name and found.wait(again)["state"] == "done" and found.wait(name)["state"] == "cancelled"


def test_a_search_has_its_time_and_no_more(serve, indexed, held):
    go, begun = held
    found = serve(indexed, timeout=0.3)
    name = start(found).json()["search"]
    time.sleep(0.4)
    go.set()
    ended = found.wait(name)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "timeout") and len(begun) <= 1


def test_who_comes_to_share_a_search_has_as_much_time_as_any(serve, indexed, held):
    found = serve(indexed, timeout=2)
    name = start(found).json()["search"]
    time.sleep(1.2)
    assert start(found).json()["search"] == name
    time.sleep(1.2)
    held[0].set()
    assert found.wait(name)["state"] == "done"


def test_the_queue_is_bounded_and_says_when_to_come_again(serve, indexed, held):
    found = serve(indexed, workers=1, waiting=2)
    answers = [start(found, top=top) for top in (1, 2, 3, 4)]
    assert [a.status_code for a in answers] == [202, 202, 202, 503]
    assert answers[3].headers["retry-after"] and answers[3].json()["error"]["code"] == "busy"
    held[0].set()
    assert found.wait(answers[2].json()["search"])["state"] == "done"
    assert start(found, top=4).status_code == 202


def test_a_slow_search_does_not_hold_up_the_others(serve, indexed, monkeypatch):
    begun, go, verify = threading.Event(), threading.Event(), Searcher.verify

    def slow(self, query, assigned, box, *rest, **more):
        if box is not None:
            begun.set()
            assert go.wait(20)
        return verify(self, query, assigned, box, *rest, **more)

    monkeypatch.setattr(Searcher, "verify", slow)
    found = serve(indexed, workers=2)
    stuck = start(found, examples=[{"image": 1, "box": [0, 0, 100, 100]}]).json()["search"]
    assert begun.wait(20)  # its picture is read by a process, which takes a while to begin
    for top in (1, 2, 3):
        assert found.wait(start(found, top=top).json()["search"])["state"] == "done"
    assert found.http.get(f"/v1/searches/{stuck}").json()["state"] == "running"
    go.set()
    assert found.wait(stuck)["state"] == "done"


def test_a_photo_of_the_collection_that_is_slow_to_read_does_not_hold_up_the_others(serve, indexed, tmp_path):
    found = serve(indexed)
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(run_apart, os.open, str(tmp_path / "pipe"), os.O_RDONLY)
        part = [{"image": 1, "box": [10, 10, 200, 150]}]
        assert found.wait(start(found, examples=part).json()["search"])["state"] == "done" and not slow.done()
        os.close(os.open(tmp_path / "pipe", os.O_WRONLY))  # now it goes on
        assert slow.result() > 2


def test_as_many_searches_rank_as_there_are_cores_but_two(monkeypatch):
    for cores, workers in ((None, 2), (1, 2), (6, 6)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert Settings().workers == workers


def test_metrics_count_what_was_done(serve, indexed):
    found = serve(indexed)
    found.wait(start(found).json()["search"])
    text = found.http.get("/metrics").text
    assert 'resight_search_seconds_count{stage="verify"} 1.0' in text
    assert 'resight_requests_total{method="POST",route="/v1/searches",status="202"} 1.0' in text
    assert "resight_searches_running 0.0" in text and "resight_images 12.0" in text
    assert found.http.get("/health").json() == {"ready": True, "why": None}


def test_a_defect_is_told_of_as_such_and_the_service_goes_on(serve, indexed, photos, monkeypatch):
    found = serve(indexed)
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "read_example", lambda self, *example: 1 / 0)
        ended = found.wait(start(found, top=1).json()["search"])
        at_once = found.http.post("/v1/search", files={"image": (photos / "coffee-2.jpg").read_bytes()})
    assert (ended["state"], ended["error"]["code"]) == ("failed", "defect") and "Zero" not in str(ended["error"])
    assert at_once.status_code == 500 and at_once.json() == {"error": ended["error"]}
    assert found.wait(start(found, top=1).json()["search"])["state"] == "done"


def test_searches_at_the_same_time_give_what_each_gives_alone(serve, indexed, photos, upload):
    found = serve(indexed, workers=4)
    asked = [
        {"image": upload(found, photo), "box": box}
        for photo in ("astronaut-2.jpg", "chelsea-2.jpg", "coffee-2.jpg", "rocket-2.jpg")
        for box in (None, [20, 20, 200, 150], [5, 40, 180, 200])
    ]
    names = [start(found, examples=[example]).json()["search"] for example in asked]
    together = [found.wait(name)["results"] for name in names]
    alone = serve(indexed, workers=1, state=found.app.service.uploads._folder.parent)
    for example, results in zip(asked, together, strict=True):
        assert alone.wait(start(alone, examples=[example]).json()["search"])["results"] == results
        assert len(results) == 12 and results[0]["accepted"]


def test_all_of_a_request_reaches_the_search(serve, indexed, monkeypatch):
    asked, rank = [], Collection.rank_described

    def noted(self, examples, **how):
        asked.append((how["top"], how["exact"], how["where"] is not None))
        return rank(self, examples, **how)

    monkeypatch.setattr(Collection, "rank_described", noted)
    found = serve(indexed)
    found.wait(start(found, top=5, exact=True, where="width > 1").json()["search"])
    found.wait(start(found, top=6).json()["search"])
    assert asked == [(5, True, True), (6, False, False)]


def test_old_searches_leave_memory_and_their_links_stay_good(serve, indexed, monkeypatch):
    monkeypatch.setattr("resight.server.searches._KEPT", 2)
    found = serve(indexed)
    ended = [found.wait(start(found, top=top).json()["search"]) for top in range(1, 6)]
    assert len(found.app.service.searches._known) <= 3
    assert found.wait(ended[0]["search"])["results"] == ended[0]["results"]


def test_a_query_is_in_use_until_its_search_has_ended(serve, indexed, upload, held):
    found = serve(indexed)
    query = upload(found)
    name = start(found, examples=[{"image": query}]).json()["search"]
    assert found.app.service.uploads.in_use() == {query}
    held[0].set()
    assert found.wait(name)["state"] == "done" and found.app.service.uploads.in_use() == set()


def test_the_name_of_a_search_leads_to_no_other_file(serve, indexed, tmp_path):
    found = serve(indexed)
    (tmp_path / "state" / "searches" / "s").mkdir()
    (tmp_path / "outside.json").write_text(json.dumps(ASKED))
    for name in ("../../outside", "s/../../../outside", str(tmp_path / "outside")):
        with pytest.raises(Refused, match="no such search"):
            found.app.service.searches.get(name)
