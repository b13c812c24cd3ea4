"""Attacks on a service: each would succeed if what it tests were left out."""

import io
import logging
import time

import httpx
import numpy as np
import PIL.Image
import pytest

import resight as rs
from resight.errors import ResightError, ServiceError
from resight.server.settings import Settings
from service import raw

TOKEN = "correct horse battery staple"


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


def picture(width=60, height=40, kind="PNG", **how) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **how)
    return buffer.getvalue()


def test_a_service_that_others_can_reach_needs_a_token():
    for host in ("0.0.0.0", "192.168.1.2", "::", "photos.example.org", "127.0.0.1.example.org"):
        with pytest.raises(ResightError, match="token"):
            Settings(host=host)
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert Settings(host=host).token is None
    with pytest.raises(ResightError, match="16 characters"):
        Settings(token="short")
    assert TOKEN not in repr(Settings(token=TOKEN))


def test_without_its_token_nothing_is_told(serve, indexed):
    found = serve(indexed, token=TOKEN)
    paths = [
        "/v1/collection",
        "/v1/images",
        "/v1/images/1/thumbnail",
        "/metrics",
        "/openapi.json",
        "/v1/searches/s1/events",
    ]
    wrong = [
        {},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Basic {TOKEN}"},
    ]
    wrong += [{"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Cookie": f"token={TOKEN}"}]
    with httpx.Client(base_url=found.url, trust_env=False) as http:
        for path in paths:
            for headers in wrong:
                assert code(http.get(path, headers=headers)) == (401, "token")
            assert code(http.get(path, params={"token": TOKEN})) == (401, "token")
        assert code(http.get("//v1/collection")) == (401, "token")
        assert code(http.get("/static/../v1/collection")) == (401, "token")
        assert code(http.post("/v1/search", files={"image": picture()})) == (401, "token")
        assert http.get("/health").json()["ready"] and http.get("/").status_code == 200
    with pytest.raises(ServiceError, match="token"):
        rs.connect(found.url)
    with rs.connect(found.url, TOKEN) as remote:
        assert len(remote) == 12


@pytest.mark.parametrize(
    "path", ["/static/%2e%2e/v1/collection", "/static/..%2fapp.py", "/static//etc/passwd", "/static/../app.py"]
)
def test_the_static_folder_is_no_way_out(serve, indexed, path):
    found = serve(indexed, token=TOKEN)
    host = found.url.removeprefix("http://")
    answer = raw(found.url, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"404", b"401", b"405") and b"create_app" not in answer and b"root:" not in answer


def test_a_name_bound_to_this_machine_by_an_attacker_is_refused(served):
    for host in ("evil.example.org", "127.0.0.1.evil.example.org", "evil.example.org:8765", "", "[evil]"):
        assert code(served.http.get("/v1/collection", headers={"Host": host})) == (421, "host")
        assert served.http.get("/", headers={"Host": host}).status_code == 421
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8765"):
        assert served.http.get("/v1/collection", headers={"Host": host}).status_code == 200


def test_behind_a_proxy_its_public_name_is_known_and_no_other(serve, indexed):
    with pytest.raises(ResightError, match="token"):
        Settings(public="https://photos.example.org")
    for wrong in ("photos.example.org", "https://photos.example.org/sub", "ftp://photos.example.org"):
        with pytest.raises(ResightError, match="public address"):
            Settings(public=wrong, token=TOKEN)
    found, asked = serve(indexed, token=TOKEN, public="https://photos.example.org"), {"examples": [{"image": 1}]}
    ours = {"Host": "photos.example.org", "Origin": "https://photos.example.org"}
    assert found.http.post("/v1/searches", json=asked, headers=ours).status_code == 202
    assert code(found.http.post("/v1/searches", json=asked, headers=ours | {"Host": "evil.org"})) == (421, "host")
    evil = ours | {"Origin": "https://evil.example.org"}
    assert code(found.http.post("/v1/searches", json=asked, headers=evil)) == (403, "origin")


def test_pages_of_other_sites_can_neither_write_nor_read(served):
    asked = {"examples": [{"image": 1}]}
    for origin in (
        "https://evil.example.org",
        "null",
        "http://[evil",
        "http://localhost:3000",
        served.url + ".evil.org",
        "http://127.0.0.1:1",
    ):
        assert code(served.http.post("/v1/searches", json=asked, headers={"Origin": origin})) == (403, "origin")
        assert code(served.http.delete("/v1/searches/s1", headers={"Origin": origin})) == (403, "origin")
    for site in ("cross-site", "same-site"):
        assert code(served.http.get("/v1/collection", headers={"Sec-Fetch-Site": site})) == (403, "origin")
    assert served.http.post("/v1/searches", json=asked, headers={"Origin": served.url}).status_code == 202
    answer = served.http.options(
        "/v1/searches", headers={"Origin": "https://evil.org", "Access-Control-Request-Method": "POST"}
    )
    allowed = served.http.get("/v1/collection", headers={"Origin": "https://evil.org"})
    assert not [name for name in [*answer.headers, *allowed.headers] if name.startswith("access-control")]


def test_every_answer_forbids_the_browser_what_the_page_does_not_need(served):
    for path in ("/", "/v1/collection", "/v1/images/1/thumbnail", "/v1/nothing", "/health", "/v1/images/x"):
        headers = served.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cross-origin-resource-policy"] == "same-origin" and "server" not in headers


def test_no_cache_keeps_what_the_api_tells(served):
    for path in ("/v1/collection", "/v1/images", "/v1/nothing"):
        assert served.http.get(path).headers["cache-control"] == "no-store"
    assert "private" in served.http.get("/v1/images/1/thumbnail").headers["cache-control"]


def test_an_upload_is_limited_in_bytes_however_it_comes(served):
    large = picture(100, 100) + bytes(2_000_001)
    assert code(served.http.post("/v1/queries", files={"image": large})) == (413, "large")
    more = bytes(served.app.service.settings.upload_bytes * 4 + 2 * 1024**2)
    assert code(served.http.post("/v1/queries", files={"image": more})) == (413, "large")  # by its Content-Length
    assert code(served.http.post("/v1/searches", files={"image": large})) == (413, "large")  # is read into memory
    form = {"content-type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    def endless():
        yield head
        sent = 0
        while sent < 200 * 1024**2:
            sent += 2**20
            yield bytes(2**20)
        raise AssertionError("the service has taken 200 MB")

    try:
        answer = served.http.post("/v1/queries", content=endless(), headers=form)
        assert code(answer) == (413, "large")
    except (httpx.WriteError, httpx.ReadError):  # it has closed the connection while we sent
        pass
    assert code(
        served.http.post(
            "/v1/searches", content=(b"[" * 2**16 for _ in range(40)), headers={"content-type": "application/json"}
        )
    ) == (413, "large")
    assert served.http.get("/health").status_code == 200


def test_a_form_cannot_be_stuffed(served, photos):
    data = picture()
    many = [("image", (f"{i}.png", data)) for i in range(9)]
    assert served.http.post("/v1/search", files=many).status_code == 400
    assert (
        served.http.post("/v1/queries", files={"image": data}, data={f"k{i}": "v" for i in range(50)}).status_code
        == 400
    )
    assert served.http.post("/v1/queries", data={"image": "/etc/passwd"}).status_code == 422


def test_pixels_are_limited_by_the_header_before_anything_is_decoded(served):
    buffer = io.BytesIO()
    PIL.Image.new("1", (20_000, 20_000)).save(buffer, "PNG")  # 50 kB that would be 1.6 GB
    assert len(buffer.getvalue()) < 100_000
    answer = served.http.post("/v1/queries", files={"image": buffer.getvalue()})
    assert code(answer) == (422, "image") and "limit" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe", picture()[:300]]
)
def test_what_is_no_whole_picture_of_an_allowed_format_is_refused(served, data):
    assert served.http.post("/v1/queries", files={"image": data}).status_code == 422


def test_no_path_and_no_address_is_ever_opened(served, photos):
    for image in (
        "/etc/passwd",
        str(photos / "coffee-1.png"),
        "file:///etc/passwd",
        "http://127.0.0.1/a.jpg",
        "../key",
        "q" * 23,
        "1",
    ):
        answer = served.http.post("/v1/searches", json={"examples": [{"image": image}]})
        assert answer.status_code in (404, 422)
    for path in (
        "queries/..%2f..%2fkey/picture",
        "queries/key/picture",
        "searches/..%2fqueries%2fkey",
        "searches/s..%2f..%2fx",
        "images/../key",
    ):
        assert served.http.get(f"/v1/{path}").status_code in (404, 422)
    model = served.http.post("/v1/searches", json={"examples": [{"image": 1}], "recipe": "/tmp/evil.toml"})
    assert code(model) == (422, "request")


def test_ids_cannot_be_guessed_from_a_picture(serve, indexed, tmp_path):
    one, two = serve(indexed, state=tmp_path / "one"), serve(indexed, state=tmp_path / "two")
    ids = [f.http.post("/v1/queries", files={"image": picture()}).json()["query"] for f in (one, two, one)]
    assert ids[0] == ids[2] != ids[1]
    assert all(not path.stat().st_mode & 0o077 for path in (tmp_path / "one").rglob("*"))


def test_what_leaves_the_service_has_no_exif_and_stands_upright(serve, own, tmp_path, photos):
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "SECRET-CAMERA"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 0.0)
    with PIL.Image.open(photos / "coffee-1.png") as opened:
        buffer = io.BytesIO()
        opened.convert("RGB").save(buffer, "JPEG", exif=exif)
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "turned.jpg").write_bytes(buffer.getvalue())
        wide = opened.size
    found = serve(own, write=True, photos=(tmp_path / "in",))
    with rs.connect(found.url) as remote:
        remote.add([tmp_path / "in"])
        image = remote.find(str(tmp_path / "in" / "turned.jpg"))
    query = found.http.post("/v1/queries", files={"image": buffer.getvalue()}).json()
    assert (query["width"], query["height"]) == wide[::-1]
    paths = [
        f"images/{image}/thumbnail?side=160",
        f"images/{image}/picture?side=300",
        f"queries/{query['query']}/picture",
    ]
    for path in paths:
        answer = found.http.get(f"/v1/{path}")
        with PIL.Image.open(io.BytesIO(answer.content)) as shown:
            assert not shown.getexif() and shown.height > shown.width
        assert b"SECRET" not in answer.content
        assert found.http.get(f"/v1/{path}", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    kept = [path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert kept and not any(b"SECRET" in data for data in kept)


def test_a_photo_that_was_exchanged_since_is_not_shown(serve, own, photos, tmp_path):
    found = serve(own, write=True, photos=(tmp_path,))
    (tmp_path / "a.png").write_bytes(picture())
    with rs.connect(found.url) as remote:
        remote.add([tmp_path / "a.png"])
        image = remote.find(str(tmp_path / "a.png"))
    (tmp_path / "a.png").write_bytes((photos / "coffee-1.png").read_bytes())
    assert code(found.http.get(f"/v1/images/{image}/thumbnail")) == (404, "picture")


def test_an_error_shows_no_traceback_and_no_code(serve, indexed, monkeypatch):
    found = serve(indexed)
    monkeypatch.setattr(type(found.app.service.live), "info", lambda self: 1 / 0)
    answer = found.http.get("/v1/collection")
    assert code(answer) == (500, "defect") and "Traceback" not in answer.text and "ZeroDivision" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_request_cannot_forge_lines_of_the_log(served, caplog):
    with caplog.at_level(logging.INFO, "resight.server"):
        served.http.get("/v1/images/1%0a2026-01-01%20GET%20/forged%1b[31m")
        until = time.monotonic() + 10  # the line is written once the answer has been sent
        while not any("forged" in r.getMessage() for r in caplog.records) and time.monotonic() < until:
            time.sleep(0.01)
    assert any("forged" in r.getMessage() for r in caplog.records)
    assert not any(c in record.getMessage() for record in caplog.records for c in "\n\r\x1b")


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"examples":[{"image":1,"weight":NaN}]}',
        "null",
        '{"examples":[{"image":1,"box":[1,2,1e999,4]}]}',
    ],
)
def test_hostile_json_is_an_error_of_its_own(served, body):
    answer = served.http.post("/v1/searches", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["error"]["message"]


def test_a_deep_condition_is_refused(served):
    where = {"op": "has", "key": "id"}
    for _ in range(200):
        where = {"op": "not", "part": where}
    answer = served.http.post("/v1/searches", json={"examples": [{"image": 1}], "where": where})
    assert code(answer) == (422, "query")


def test_photos_are_added_only_from_folders_that_were_named(serve, own, tmp_path, photos):
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to(photos)
    (tmp_path / "allowed-not").mkdir()
    found = serve(own, write=True, photos=(allowed,))
    places = [
        str(photos),
        f"{allowed}/link",
        f"{allowed}/../",
        f"{allowed}-not",
        "-",
        "@list",
        "allowed",
        f"{allowed}/*",
        "",
        "/",
        f"{allowed}\0",
    ]
    for place in places:
        assert code(found.http.post("/v1/jobs", json={"kind": "add", "paths": [place]})) == (403, "place")
    assert found.http.post("/v1/jobs", json={"kind": "add", "paths": [str(allowed)]}).status_code == 202


def test_a_service_that_only_reads_changes_nothing(served):
    for kind in ("add", "remove", "duplicates"):
        assert code(served.http.post("/v1/jobs", json={"kind": kind, "images": [1]})) == (403, "readonly")
    assert code(served.http.patch("/v1/metadata", json={"facts": {"1": {"a": 1}}})) == (403, "readonly")


def test_kept_queries_are_bounded_and_the_oldest_go(serve, indexed, tmp_path):
    found = serve(indexed, state_bytes=100_000)
    ids = []
    for seed in range(5):
        pixels = np.random.default_rng(seed).integers(0, 255, (100, 120, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "PNG")
        ids.append(found.http.post("/v1/queries", files={"image": buffer.getvalue()}).json()["query"])
    kept = {path.stem for path in (tmp_path / "state" / "queries").glob("q*.png")}
    assert kept == set(ids[-2:])  # of 36 kB each
    assert code(found.http.get(f"/v1/queries/{ids[0]}/picture")) == (404, "unknown")
    assert found.http.get(f"/v1/queries/{ids[-1]}/picture").status_code == 200


def test_no_answer_leads_to_where_the_host_header_says(served):
    for path in ("/v1/collection/", "/v1/images/1/", "/static", "//evil.example.org/%2e%2e"):
        answer = served.http.get(path, headers={"Host": "localhost:1"})
        assert answer.status_code == 404 and "location" not in answer.headers
