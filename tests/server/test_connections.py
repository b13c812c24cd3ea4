"""Clients that are slow, go away or take too much: each is cut off in its time, and costs others nothing."""

import io
import json
import logging
import os
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import PIL.Image
import pytest

from resight.server import connections, limits
from resight.server.metrics import Lines
from resight.server.requests import Requests
from resight.server.schemas import AskedExample, SearchRequest
from resight.server.searches import Searches
from service import connected, one_status, raw, rest

FORM = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


@pytest.fixture
def hasty(monkeypatch, serve, indexed):
    """A service that has little patience."""
    for name, seconds in {"HEAD": 0.3, "PATIENCE": 0.4, "LINGER": 0.2, "QUEUE": 0.3}.items():
        monkeypatch.setattr(limits, name, seconds)
    monkeypatch.setattr(limits, "RECEIVED", 2)
    monkeypatch.setattr(connections, "_EVERY", 0.05)
    return serve(indexed)


def head(found, line: str, **headers: object) -> bytes:
    every = {"Host": found.url.removeprefix("http://"), **{k.replace("_", "-"): v for k, v in headers.items()}}
    return "\r\n".join([f"{line} HTTP/1.1", *(f"{k}: {v}" for k, v in every.items()), "", ""]).encode()


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def alive(found) -> bool:
    return found.http.get("/v1/collection").status_code == 200


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def until(true, seconds=10.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def test_a_head_that_comes_a_byte_at_a_time_is_given_up(hasty):
    request, began = head(hasty, "GET /health"), time.monotonic()
    with connected(hasty.url) as connection:
        for byte in request:
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
            if time.monotonic() - began > 5:
                pytest.fail("it waits for the head still")
            time.sleep(0.03)
        answer = rest(connection)
    assert not answer or status(answer) == 408
    with connected(hasty.url) as connection:  # the same, of which all is read before more is sent
        connection.sendall(request[:20])
        answer = rest(connection)
    assert status(answer) == 408 and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "slow"
    with connected(hasty.url) as connection:
        assert rest(connection) == b""
    assert alive(hasty)


def test_so_is_the_second_of_a_connection_and_one_that_is_quick_is_not(hasty):
    request = head(hasty, "GET /health")
    with connected(hasty.url) as connection:
        for _ in range(5):  # for longer than a head may take
            connection.sendall(request)
            assert one_status(connection) == 200
            time.sleep(0.15)
        connection.sendall(request[:30])
        assert status(rest(connection)) == 408


def test_a_body_that_trickles_is_given_up(hasty):
    for line, kind, begun in (("POST /v1/searches", "application/json", b"{"), ("POST /v1/queries", FORM, PART)):
        with connected(hasty.url) as connection:
            connection.sendall(head(hasty, line, Content_Type=kind, Content_Length=5000) + begun)
            answer = rest(connection)
        assert status(answer) == 408 and b"connection: close" in answer.lower()
    assert alive(hasty)


def test_a_body_at_a_fair_rate_may_take_longer(hasty, monkeypatch):
    monkeypatch.setattr(limits, "RATE", 80)
    data = json.dumps({"examples": [{"image": 1}], "where": "id = 1 " + " " * 200}).encode()
    with connected(hasty.url) as connection:
        connection.sendall(head(hasty, "POST /v1/searches", Content_Type="application/json", Content_Length=len(data)))
        for at in range(0, len(data), 20):  # at 400 bytes a second
            connection.sendall(data[at : at + 20])
            time.sleep(0.05)
        assert one_status(connection) == 202


def test_the_rest_of_a_body_that_is_answered_is_not_taken_for_ever(hasty):
    request = head(hasty, "POST /v1/nothing", Content_Length=2_000_000_000)
    with connected(hasty.url) as connection:
        connection.sendall(request)
        assert one_status(connection) == 413
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 5:
                connection.sendall(b"x")
                time.sleep(0.02)
    assert alive(hasty)


def test_an_answer_that_is_not_taken_is_dropped(hasty, monkeypatch):
    monkeypatch.setattr(hasty.app.service.metrics, "text", lambda: bytes(20_000_000))
    with connected(hasty.url) as connection:
        connection.sendall(head(hasty, "GET /metrics"))
        time.sleep(2)
        got = len(rest(connection))
    assert got < 20_000_000
    with connected(
        hasty.url
    ) as connection:  # one that takes it at a fair rate gets it all, though it takes longer than the patience
        connection.sendall(head(hasty, "GET /metrics", Connection="close"))
        got, began = 0, time.monotonic()
        while part := connection.recv(400_000):
            got += len(part)
            time.sleep(0.02)
        assert got > 20_000_000 and time.monotonic() - began > 0.6
    assert alive(hasty)


def test_above_its_most_connections_it_says_so_and_hears_no_more(serve, indexed, monkeypatch):
    monkeypatch.setattr(limits, "AT_ONCE", 3)
    monkeypatch.setattr(limits, "UNHEARD", 5)
    found = serve(indexed)
    with ExitStack() as stack:
        held = [stack.enter_context(connected(found.url)) for _ in range(7)]
        for connection in held[:3]:
            connection.sendall(head(found, "GET /health"))
            assert one_status(connection) == 200
        for connection in held[3:5]:
            connection.sendall(head(found, "GET /health"))
            answer = rest(connection)
            assert status(answer) == 503 and b"retry-after:" in answer.lower()
            assert b'"busy"' in answer and b"nosniff" in answer
        assert [rest(connection) for connection in held[5:]] == [b"", b""]
    assert until(lambda: found.http.get("/health").status_code == 200)


def test_forms_wait_for_their_turn_and_not_for_ever(hasty, monkeypatch, photos):
    monkeypatch.setattr(limits, "PATIENCE", 30)
    request = head(hasty, "POST /v1/queries", Content_Type=FORM, Content_Length=5000)
    held = [connected(hasty.url) for _ in range(2)]
    for connection in held:
        connection.sendall(request + PART)
    time.sleep(0.2)
    data = (photos / "coffee-1.png").read_bytes()
    refused = hasty.http.post("/v1/queries", files={"image": data})
    assert refused.status_code == 503 and refused.headers["retry-after"] and alive(hasty)
    for connection in held:
        connection.close()
    assert until(lambda: hasty.http.post("/v1/queries", files={"image": data}).status_code == 201)


def test_uploads_that_are_broken_off_leave_nothing(serve, indexed, tmp_path, monkeypatch, caplog):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    found = serve(indexed)
    files = open_files()
    request = head(found, "POST /v1/queries", Content_Type=FORM, Content_Length=40_000_000)
    with caplog.at_level(logging.INFO):
        for _ in range(20):  # more than may be received at the same time, so each must give its place back
            with connected(found.url) as connection:
                connection.sendall(request + PART + bytes(3_000_000))
        assert until(lambda: sum("/v1/queries 499" in record.getMessage() for record in caplog.records) == 20)
    assert not any(record.exc_info for record in caplog.records)
    assert not list((tmp_path / "temporary").iterdir()) and open_files() <= files + 1
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (40, 40)).save(buffer, "PNG")
    assert found.http.post("/v1/queries", files={"image": buffer.getvalue()}).status_code == 201
    assert 'status="499"' in found.http.get("/metrics").text


def test_a_search_whose_only_client_has_gone_ends(serve, indexed, photos, monkeypatch):
    go, rank = threading.Event(), Searches._rank

    def slow(self, search, *others):
        while not go.wait(0.02) and not search.ended:
            pass
        rank(self, search, *others)

    monkeypatch.setattr(Searches, "_rank", slow)
    found = serve(indexed)
    data = (photos / "coffee-1.png").read_bytes()
    body = PART + data + b"\r\n--x--\r\n"
    with connected(found.url) as connection:
        connection.sendall(head(found, "POST /v1/search", Content_Type=FORM, Content_Length=len(body)) + body)
        assert until(lambda: found.app.service.searches._count("running") == 1)
    assert until(lambda: found.app.service.searches._count("running") == 0), "it goes on for nobody"
    go.set()


def test_a_full_disk_costs_no_place_in_the_queue(serve, indexed, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    found = serve(indexed, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr("resight.server.requests.replace_file", full)
        answers = [found.http.post("/v1/searches", json={"examples": [{"image": 1}], "top": t}) for t in range(1, 80)]
    assert {answer.status_code for answer in answers} == {507}
    answer = found.http.post("/v1/searches?wait=20", json={"examples": [{"image": 1}], "top": 3})
    assert answer.status_code == 200 and answer.json()["state"] == "done"


def test_kept_requests_are_bounded_while_a_service_runs(tmp_path):
    requests = Requests(tmp_path, most=20, most_bytes=10_000)
    for number in range(60):
        asked = SearchRequest(examples=[AskedExample(image=number)], where="id = 1" if number < 30 else "x" * 3000)
        requests.keep(f"s{number:03}", asked)
        os.utime(tmp_path / f"s{number:03}.json", (number, number))
        kept = [path.stat().st_size for path in tmp_path.iterdir()]
        assert len(kept) <= 20 and sum(kept) <= 10_000
    assert requests.get("s059").examples[0].image == 59 and requests.get("s000") is None
    Requests(tmp_path, most=2)
    assert {path.name for path in tmp_path.iterdir()} == {"s059.json"}  # a tenth less than its most


def test_many_pictures_to_make_hold_up_nothing_else(serve, own, monkeypatch):
    go = threading.Event()
    found = serve(own)
    monkeypatch.setattr(found.app.service.pictures, "jpeg", lambda image, side: go.wait(20) and b"")
    waiting = [connected(found.url) for _ in range(60)]  # more than there are threads for all else
    for connection in waiting:
        connection.sendall(head(found, "GET /v1/images/1/thumbnail"))
    time.sleep(0.3)
    began = time.monotonic()
    assert found.http.get("/v1/collection").status_code == 200 and time.monotonic() - began < 5
    go.set()
    for connection in waiting:
        assert one_status(connection) == 200
        connection.close()


def test_what_is_asked_for_is_no_whole_line_of_the_log(serve, indexed, capsys, monkeypatch):
    """A defect's message has what a request said, and its traceback is the log's only text of several lines."""
    forged = "x\n2026-11-28 GET /forged 200\x1b[2J"

    def broken(*_):
        raise RuntimeError(forged)

    found = serve(indexed)
    monkeypatch.setattr(found.app.service.metrics, "text", broken)
    records: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record):
            records.append(self.format(record))

    handler = Kept()
    handler.setFormatter(Lines())
    log = logging.getLogger("resight.server")
    log.addHandler(handler)
    try:
        for _ in range(2):  # on the same connection, which is still good
            assert found.http.get("/metrics").status_code == 500
    finally:
        log.removeHandler(handler)
    for line in "\n".join(records).split("\n"):
        assert line.isprintable() and line.startswith(("    | ", "a request failed", "GET /")), line


def test_the_page_is_compressed_and_events_are_not_held_back(serve, indexed):
    found = serve(indexed)
    script = next(path for path in (found.http.get("/").text.split('"')) if path.endswith(".js"))
    packed, plain = (found.http.get(script, headers={"Accept-Encoding": how}) for how in ("gzip", "identity"))
    assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert packed.content == plain.content and packed.num_bytes_downloaded < plain.num_bytes_downloaded / 2
    assert "accept-encoding" in packed.headers["vary"].lower()
    again = found.http.get(script, headers={"Accept-Encoding": "gzip", "If-None-Match": packed.headers["etag"]})
    assert again.status_code == 304
    name = found.http.post("/v1/searches", json={"examples": [{"image": 1}]}).json()["search"]
    told = found.http.get(f"/v1/searches/{name}/events", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in told.headers and "event: done" in told.text


def test_a_body_of_two_lengths_is_refused(serve, indexed):
    """A proxy that went by the other one would take the second request for a part of the first."""
    found = serve(indexed)
    smuggled = head(found, "GET /v1/collection")
    request = head(
        found, "POST /v1/searches", Content_Type="application/json", Content_Length=4, Transfer_Encoding="chunked"
    )
    answer = raw(found.url, request + b"0\r\n\r\n" + smuggled)
    assert status(answer) == 400 and answer.count(b"HTTP/1.1") == 1


def test_on_a_full_disk_a_thumbnail_is_shown_and_not_kept(serve, own, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    found = serve(own)
    monkeypatch.setattr("resight.server.pictures.replace_file", full)
    assert all(found.http.get("/v1/images/1/thumbnail").status_code == 200 for _ in range(2))


def test_a_condition_is_of_a_length_that_can_be_read(serve, indexed):
    text = "id = 1 or " * 10_000 + "id = 1"
    answer = serve(indexed).http.post("/v1/searches", json={"examples": [{"image": 1}], "where": text})
    assert answer.status_code == 422 and len(answer.content) < 1000  # which does not say it back


def test_who_asks_for_a_web_socket_writes_nothing_into_the_log(serve, indexed, caplog):
    found = serve(indexed)
    request = head(found, "GET /health", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Key="x")
    with caplog.at_level(logging.INFO), connected(found.url) as connection:
        connection.sendall(request)
        assert one_status(connection) == 200
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
