"""Each text, number and header that a request can bring, with each thing in it that has broken other services.

Judged by what it must not do: a file that it reads, an address that it calls, a header or a line of the log that it
writes, an image that it tells or changes, a defect (500).
"""

import itertools
import json
import logging
import shutil
import socket
import threading
import urllib.parse
from contextlib import ExitStack

import httpx
import pytest

from resight.search.collection import Collection
from resight.server.metrics import Lines
from resight.server.settings import Settings
from resight.store.where import Contains, Equals
from resight.store.where_json import to_json
from resight.store.where_text import format_where
from service import Served, raw, running

SECRET = "the-secret-of-this-test"
UPLOAD = {"content-type": "multipart/form-data; boundary=x"}
PATHS = (
    "/v1/images/{}",
    "/v1/images/{}/thumbnail",
    "/v1/images/{}/picture",
    "/v1/queries/{}",
    "/v1/queries/{}/picture",
    "/v1/searches/{}",
    "/v1/searches/{}/events",
    "/v1/searches/{}/export?format=csv",
    "/v1/searches/{}/results/1",
    "/v1/jobs/{}",
    "/v1/jobs/{}/events",
    "/v1/duplicates/{}/decision",
    "/static/{}",
    "/{}",
)
"""Those that have a place for any text, of which one may be a file's name inside."""

sampled = pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.torture), 12])
"""All that there is to try by `make torture`, and each twelfth by `make test`."""


@pytest.fixture(scope="module")
def besieged(indexed, photos, tmp_path_factory):
    """A service that may write, with secrets in files all around what it serves."""
    folder = tmp_path_factory.mktemp("besieged")
    path = shutil.copytree(indexed, folder / "collection")
    for place in ("", "state", "state/queries", "state/searches", "state/thumbnails"):
        (folder / place).mkdir(exist_ok=True)
        for name in ("secret", "secret.json", "secret.png", "secret.jpg"):
            (folder / place / name).write_text(json.dumps({"size": [1, 1], "examples": [], SECRET: SECRET}))
    (folder / "photos").mkdir()
    (folder / "photos" / "list.txt").write_text("/etc/passwd\n")
    settings = Settings(port=0, state=folder / "state", write=True, photos=(folder / "photos",))
    with running(path, settings) as found:
        yield found


def request(found: Served, line: str, headers: str = "") -> bytes:
    host = found.url.removeprefix("http://")
    return raw(found.url, f"{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n".encode("latin-1"))


def sound(answer: httpx.Response) -> bool:
    """Whether the service did what it should, or said that it cannot now: a job may have the collection (503)."""
    return answer.status_code < 500 or answer.status_code == 503


def ways_up(besieged: Served) -> list[str]:
    folder = str(besieged.app.service.path.parent)
    up = ("..", "%2e%2e", "%252e%252e", ".%2e", "..;", "....", "%c0%ae%c0%ae", "..%00", "%ef%bc%8e%ef%bc%8e")
    between = ("/", "%2f", "%5c", "\\", "//", "%252f", "%c0%af")
    names = [f"{u}{b}" * deep + name for u in up for b in between for deep in (1, 2, 3) for name in ("secret", "key")]
    there = [f"{folder}/secret", f"file://{folder}/secret", f"{folder}/state/key"]
    quoted = [urllib.parse.quote(path, safe="") for path in there]
    return names + there + quoted + ["secret", "key", "~", ".", "..", "%00", "secret%00.png", "s" + "%2e" * 5, "q" * 23]


@sampled
def test_no_path_leads_to_a_file(besieged, count, every):
    key = (besieged.app.service.path.parent / "state" / "queries" / "key").read_bytes()
    names = ways_up(besieged)[::every]
    tried = 0
    # Every name at two of the places, in turn, and some at all: each place has each way of writing many times.
    for number, name in enumerate(names):
        for place in PATHS if number % 20 == 0 else (PATHS[number % len(PATHS)], PATHS[(number // 2) % len(PATHS)]):
            answer = request(besieged, f"GET {place.format(name)}")
            tried += 1
            assert answer.split()[1] in (b"400", b"404", b"405", b"422"), (place, name)
            assert SECRET.encode() not in answer and key not in answer and b"root:" not in answer
    for name, place in itertools.product(names[:60:every], ("image", "paths")):
        asked = {"examples": [{"image": name}]} if place == "image" else {"kind": "add", "paths": [name, f"/{name}"]}
        answer = besieged.http.post("/v1/searches" if place == "image" else "/v1/jobs", json=asked)
        tried += 1
        assert answer.status_code in (403, 404, 422) and SECRET not in answer.text
    count(f"{tried} requests for files, 0 answered")


class Canary:
    """Listens where nothing of the service should ever call."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        self.calls, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                self.socket.accept()[0].close()
                self.calls += 1
            except TimeoutError:
                pass

    def __enter__(self) -> "Canary":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.socket.close()


@sampled
def test_no_address_is_ever_called(besieged, photos, count, every):
    with Canary() as canary, ExitStack() as stack:
        forms = [
            f"{scheme}{canary.address}/a.jpg"
            for scheme in ("http://", "https://", "ftp://", "//", "s3://", "gs://", "hdfs://", "github://", "smb://")
        ]
        forms += [
            f"http://x@{canary.address}",
            f"filecache::http://{canary.address}/a",
            f"zip://a::http://{canary.address}",
        ]
        headers = dict.fromkeys(
            ("Referer", "Forwarded", "X-Forwarded-Host", "X-Original-URL", "X-Rewrite-URL", "Proxy"), forms[0]
        )
        http = stack.enter_context(httpx.Client(base_url=besieged.url, headers=headers, trust_env=False, timeout=30))
        tried = 0
        for url in forms[::every]:
            svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'
            xmp = photos.joinpath("coffee-2.jpg").read_bytes() + url.encode()
            asked = [
                http.post("/v1/searches?wait=20", json={"examples": [{"image": url}]}),
                http.post(
                    "/v1/searches?wait=20",
                    json={"examples": [{"image": 1}], "where": format_where(Equals("path", url))},
                ),
                http.post("/v1/jobs", json={"kind": "add", "paths": [url]}),
                http.post("/v1/jobs", json={"kind": "add", "paths": [f"/{url}"]}),
                http.post("/v1/jobs", json={"kind": "remove", "paths": [url]}),
                http.patch("/v1/metadata", json={"facts": {"1": {"page": url}}}),
                http.get("/v1/images", params={"folder": url, "where": f'path = "{url}"'}),
                http.get("/v1/failures", params={"after": url}),
                http.post("/v1/queries", files={"image": (url, svg.encode(), "image/svg+xml")}),
                http.post("/v1/queries", files={"image": (url, xmp, "image/jpeg")}),
                http.post("/v1/queries", data={"image": url}),
                http.get(f"/v1/queries/{urllib.parse.quote(url, safe='')}/picture"),
                http.post(f"/v1/search?callback={url}", files={"image": xmp}, data={"request": f'{{"url": "{url}"}}'}),
            ]
            tried += len(asked)
            assert [(answer.url, answer.text) for answer in asked if not sound(answer)] == []
            raw(besieged.url, f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            raw(
                besieged.url,
                f"CONNECT {canary.address} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode(),
            )
        for job in besieged.http.get("/v1/jobs").json()["jobs"]:
            besieged.http.get(f"/v1/jobs/{job['job']}/events")
        assert canary.calls == 0
        socket.create_connection(canary.socket.getsockname()).close()  # which it would have counted
        for _ in range(100):
            if canary.calls:
                break
            threading.Event().wait(0.05)
        assert canary.calls == 1
    count(f"{tried} requests that name an address, 0 calls")


BREAKS = ("\r\n", "\n", "\r", "%0d%0a", "%0a", "%0d", "%E5%98%8A%E5%98%8D", "%00", "\\r\\n", "\u2028", "\x85")


@sampled
def test_no_header_and_no_line_of_the_log_is_written_by_a_request(besieged, caplog, count, every):
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record):
            lines.extend(self.format(record).split("\n"))

    kept = Kept()
    kept.setFormatter(Lines())
    for name in ("resight.server", "uvicorn"):
        logging.getLogger(name).addHandler(kept)
    caplog.set_level(logging.INFO, "resight.server")
    tried = 0
    try:
        for cut in BREAKS[::every]:
            forged = f"x{cut}X-Injected: 1{cut}{cut}2026-11-28 GET /forged 200\x1b[2J"
            in_path = urllib.parse.quote(forged, safe="%")
            for place in PATHS:
                for method in ("GET", "DELETE"):
                    answer = request(besieged, f"{method} {place.format(in_path)}")
                    tried += 1
                    assert b"x-injected" not in answer.partition(b"\r\n\r\n")[0].lower(), (place, cut)
            asked = [
                besieged.http.get("/v1/images", params={"where": forged, "folder": forged}),
                besieged.http.get("/v1/failures", params={"after": forged}),
                besieged.http.post("/v1/searches", json={"examples": [{"image": forged}], "where": forged}),
                besieged.http.post("/v1/jobs", json={"kind": "add", "paths": [forged, "/" + forged]}),
                besieged.http.post("/v1/jobs", json={"kind": "remove", "paths": [forged]}),
                besieged.http.patch("/v1/metadata", json={"facts": {"1": {forged: forged}}}),
                besieged.http.post("/v1/queries", files={"image": (forged, b"no picture", "image/png")}),
            ]
            tried += len(asked)
            for answer in asked:
                assert answer.status_code in (*range(200, 500), 503), (answer.request.url, cut)  # 503: a job writes
                assert "x-injected" not in answer.headers
            for name in ("If-None-Match", "Last-Event-ID", "Origin", "Host", "Range", "Accept-Encoding"):
                for place in ("/v1/images/1/thumbnail", "/", "/v1/collection/"):
                    text = forged.encode().decode("latin-1").replace("\r", "").replace("\n", "")
                    answer = request(besieged, f"GET {place}", f"{name}: {text}\r\n")
                    tried += 1
                    assert b"\nx-injected" not in answer.lower() and b" 500 " not in answer.partition(b"\r\n")[0]
    finally:
        for name in ("resight.server", "uvicorn"):
            logging.getLogger(name).removeHandler(kept)
    assert any("forged" in line for line in lines)
    starts = ("GET /", "DELETE /", "POST /", "PATCH /", "Invalid HTTP", "other ")
    assert not [line for line in lines if not line.isprintable() or not line.startswith(starts)]
    count(f"{tried} requests with line breaks, 0 headers and 0 lines of the log forged")


HOSTILE = (
    *("'", '"', "''", "' OR '1'='1", '" OR "1"="1', "'; DROP TABLE images;--", "1) OR (1=1", "x' UNION SELECT 1--"),
    *("%", "_", "%%", "*", "?", "[a-z]*", "\\", "\\'", "coffee%", "coffee_1.png", "c*", "^", "$", ".*", "id", "NULL"),
    *(") or (has id", '" or has id or path = "', "x or true", "${jndi:x}", "{{7*7}}", "%s%n", "$(id)", "`id`"),
    *("coffee-1.png\u0000", "coffee-1.png ", "COFFEE-1.PNG", "cofféé", "ⓒoffee", "\u202e", "e\u0301"),
)


@sampled
def test_no_text_becomes_part_of_a_condition(besieged, count, every):
    """What a condition finds is what its definition says of the text as it stands, counted one by one."""
    http, tried = besieged.http, 0
    with Collection.open(besieged.app.service.path) as local:
        entries, before = list(local.entries()), local.fingerprint
    names = {entry.id: entry.origin.rpartition("/")[2] for entry in entries}
    http.patch("/v1/metadata", json={"facts": {str(image): {"note": name} for image, name in names.items()}})
    for text in HOSTILE[::every]:
        for where, true in (
            (Equals("note", text.replace("\0", "")), lambda name, text=text: name == text.replace("\0", "")),
            (
                Contains("note", text.replace("\0", "")),
                lambda name, text=text: text.replace("\0", "").casefold() in name.casefold(),
            ),
        ):
            wanted = {image for image, name in names.items() if true(name)}
            listed = http.get("/v1/images", params={"where": format_where(where)}).json()["images"]
            assert {image["id"] for image in listed} == wanted, where
            for how in (format_where(where), to_json(where)):
                asked = {"examples": [{"image": 1}], "where": how}
                found = http.post("/v1/searches?wait=30", json=asked).json()
                assert {result["image"] for result in found["results"]} == wanted, where
            tried += 3
        # As it stands: it is no condition, or one that is about this text alone.
        answer = http.get("/v1/images", params={"where": text})
        assert answer.status_code == 422, text
        wanted = {e.id for e in entries if e.origin.rpartition("/")[0].endswith(f"/{text}")}
        folder = http.get("/v1/images", params={"folder": text})
        assert folder.status_code == 422 or {image["id"] for image in folder.json()["images"]} == wanted
        tried += 2
    with Collection.open(besieged.app.service.path) as local:
        assert [(e.id, e.origin) for e in local.entries()] == [(e.id, e.origin) for e in entries]
        assert local.fingerprint == before
    count(f"{tried} conditions, each found what its definition says")


NUMBERS = (
    *("0", "-1", "1e9", "9223372036854775807", "9223372036854775808", "1" + "0" * 40, "1" * 5000, "NaN", "1e999"),
    *("-0.0", "1.5", "1e-320", "true", "null", '"1"', "[]", "{}", '"\\ud800"', '"\\u0000"', '""'),
)
BODIES = (
    ("POST", "/v1/searches?wait=20", '{"examples": [{"image": %s}]}'),
    ("POST", "/v1/searches?wait=20", '{"examples": [{"image": 1, "weight": %s}]}'),
    ("POST", "/v1/searches?wait=20", '{"examples": [{"image": 1, "box": [0, 0, %s, 50]}]}'),
    ("POST", "/v1/searches?wait=20", '{"examples": [{"image": 1}], "top": %s}'),
    ("POST", "/v1/searches?wait=20", '{"examples": [{"image": 1}], "where": %s}'),
    (
        "POST",
        "/v1/searches?wait=20",
        '{"examples": [{"image": 1}], "where": {"op": "equals", "key": "id", "value": %s}}',
    ),
    ("POST", "/v1/searches?wait=20", '{"examples": [{"image": 1}], "exact": %s}'),
    ("POST", "/v1/searches", "%s"),
    ("PATCH", "/v1/metadata", '{"facts": {"1": {"a": %s}}}'),
    ("PATCH", "/v1/metadata", '{"facts": {"1": %s}}'),
    ("PUT", "/v1/duplicates/decision", '{"decision": null, "images": [1, %s]}'),
    ("PUT", "/v1/duplicates/decision", '{"decision": %s, "images": [1, 2]}'),
    ("PUT", "/v1/duplicates/d1/decision", '{"decision": null, "images": [%s]}'),
    ("POST", "/v1/jobs", '{"kind": "remove", "images": [%s]}'),
    ("POST", "/v1/jobs", '{"kind": "add", "paths": [%s]}'),
    ("POST", "/v1/jobs", '{"kind": "remove", "paths": [%s]}'),
    ("POST", "/v1/jobs", '{"kind": %s}'),
)


QUERIES = (
    *("/v1/images?after={}", "/v1/images?limit={}", "/v1/duplicates?after={}", "/v1/duplicates?overlap={}"),
    *("/v1/images/{}", "/v1/images/{}/thumbnail", "/v1/images/1/picture?side={}", "/v1/searches/s1?after={}"),
    *("/v1/searches/s1?wait={}", "/v1/searches/s1/results/{}"),
)


@sampled
def test_no_number_and_no_value_is_a_defect(besieged, count, every):
    bodies = [(*asked, number) for asked in BODIES for number in NUMBERS]
    bodies += [("PATCH", "/v1/metadata", '{"facts": {%s: {"a": 1}}}', json.dumps(number)) for number in NUMBERS]
    for method, path, body, number in bodies[::every]:
        content = (body % number).encode()
        answer = besieged.http.request(method, path, content=content, headers={"content-type": "application/json"})
        assert sound(answer), (path, content[:80], answer.text[:200])
        assert not answer.content or (answer.json()["error"] or {}).get("code") != "defect", (path, content[:80])
    asked = [path.format(urllib.parse.quote(number)) for path in QUERIES for number in NUMBERS]
    for path in asked[::every]:
        assert sound(besieged.http.get(path)), path
    tried = len(bodies[::every]) + len(asked[::every])
    for job in besieged.http.get("/v1/jobs").json()["jobs"]:
        assert not job["error"] or job["error"]["code"] != "defect", job
    count(f"{tried} requests with odd values, 0 defects")


def test_no_path_of_a_job_is_a_defect(besieged):
    folder = str(besieged.app.service.settings.photos[0])
    circle = besieged.app.service.settings.photos[0] / "circle"
    circle.symlink_to(circle)
    inside = ("a/" * 3000, "circle", "circle/x", "\udcff", "\ud800", "list.txt/x")
    for path in (
        *(f"{folder}/{name}" for name in inside),
        "/" + "a" * 5000,
        "/proc/self/mem",
        "/dev/stdin",
        "\\\\h\\s",
    ):
        for kind in ("add", "remove"):
            content = json.dumps({"kind": kind, "paths": [path]})
            answer = besieged.http.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
            assert answer.status_code in ((403, 422) if kind == "add" else (202, 422)), (kind, path[:60])
    circle.unlink()
    for job in besieged.http.get("/v1/jobs").json()["jobs"]:
        besieged.http.get(f"/v1/jobs/{job['job']}/events")
    jobs = besieged.http.get("/v1/jobs").json()["jobs"]
    assert not [job for job in jobs if job["error"] and job["error"]["code"] == "defect"]


def test_what_is_no_whole_request_is_refused_and_the_next_is_answered(besieged, count):
    host = f"Host: {besieged.url.removeprefix('http://')}\r\n"
    post = f"POST /v1/searches HTTP/1.1\r\n{host}"
    heads = (
        f"GET /health HTTP/1.1\r\n{host}Host: evil.example.org\r\n\r\n",
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.0\r\n\r\n",
        "GET /health\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        f"{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        f"{post}Content-Length: -5\r\n\r\n",
        f"{post}Content-Length: +5\r\n\r\n",
        f"{post}Content-Length: 0x5\r\n\r\n",
        f"{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        f"{post}Transfer-Encoding: xchunked\r\n\r\n",
        f"{post}Transfer-Encoding: chunked, identity\r\n\r\n",
        f"{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        f"{post}Transfer-Encoding : chunked\r\n\r\n",
        f"{post}Content-Length : 5\r\n\r\n",
        f"{post}\x00: 5\r\n\r\n",
        f"GET /\x00 HTTP/1.1\r\n{host}\r\n",
        f"GET /\xff HTTP/1.1\r\n{host}\r\n",
        f"GET /health HTTP/1.1\r\n{host}X: {'a' * 600_000}\r\n\r\n",
        f"GET /{'a' * 600_000} HTTP/1.1\r\n{host}\r\n",
        f"GET /health HTTP/1.1\r\n{host}" + "X: a\r\n" * 100_000 + "\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "a" * 500,
        "\r\n" * 300_000,
    )
    for number, head in enumerate(heads):
        answer = raw(besieged.url, head.encode("latin-1"), timeout=20)
        codes = [int(part.split()[0]) for part in answer.split(b"HTTP/1.1")[1:]]
        assert codes and set(codes) <= {400, 421, 408}, (number, head[:60], answer[:200])
        assert besieged.http.get("/health").status_code == 200
    count(f"{len(heads)} broken heads, all refused")
