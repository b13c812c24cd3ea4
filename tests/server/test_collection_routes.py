"""What the API tells of a collection: pages, folders, conditions, failures; and that it describes itself."""

import re
from pathlib import Path

import pytest

from resight.search.collection import Collection
from resight.store.where_text import parse_where

DOCS = Path(__file__).resolve().parents[2] / "docs/service.md"


def pages(found, path, key, **params):
    """All of a list that comes in pages."""
    rows, after = [], None
    while True:
        page = found.http.get(path, params=params | ({} if after is None else {"after": after})).json()
        rows += page[key]
        after = page["next"]
        if after is None:
            return rows


def test_images_come_in_pages_whatever_they_are_asked_for(served, indexed, photos):
    with Collection.open(indexed) as local:
        everything = [(entry.id, entry.origin, entry.size) for entry in local.entries()]
        narrow = local.matching(parse_where("height < 300")).tolist()
    for limit in (1, 5, 12, 1000):
        rows = pages(served, "/v1/images", "images", limit=limit)
        assert [(r["id"], f"{r['folder']}/{r['name']}", (r["width"], r["height"])) for r in rows] == everything
    assert 0 < len(narrow) < 12
    rows = pages(served, "/v1/images", "images", limit=2, where="height < 300")
    assert [r["id"] for r in rows] == narrow
    assert len(pages(served, "/v1/images", "images", folder=photos.name)) == 12
    assert pages(served, "/v1/images", "images", folder="no-such-folder") == []
    assert served.http.get("/v1/folders").json() == {"folders": [{"folder": str(photos), "images": 12}]}
    wrong = served.http.get("/v1/images", params={"where": "width <"})
    assert wrong.status_code == 422 and wrong.json()["error"]["code"] == "query"


def test_failures_come_in_pages_by_name(serve, own, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(b"no picture")
    with Collection.open(own, write=True) as writer:
        assert writer.add([folder], workers=1).failed == 5
    found = serve(own)
    rows = pages(found, "/v1/failures", "failures", limit=2)
    assert [row["path"] for row in rows] == [str(folder / f"{number}.jpg") for number in range(5)]
    assert all("not an image" in row["reason"] for row in rows)


@pytest.mark.parametrize(
    "path", ["/v1/images/0", "/v1/images/99999999999999999999", "/v1/images/x", "/v1/images?limit=0"]
)
def test_what_cannot_be_is_an_error_in_the_one_form(served, path):
    answer = served.http.get(path)
    assert answer.status_code == 422 and set(answer.json()["error"]) == {"code", "message"}


def test_the_api_describes_itself_as_the_documentation_does(served):
    described = served.http.get("/openapi.json").json()
    known = {re.sub(r"\{[^}]*\}", "*", path) for path in described["paths"]}
    table = [
        line.split("|")[1]
        for line in DOCS.read_text("utf-8").splitlines()
        if line.startswith(("| `GET", "| `P", "| `D"))
    ]
    told = {path.split("?")[0] for line in table for path in re.findall(r"/(?:v1/)?[\w/…]+[?\w&=]*", line)}
    told = {re.sub(r"/[sjd]…|/7\b", "/*", path) for path in told}
    full = {path for path in told if path.startswith("/v1") or path in ("/health", "/metrics")}
    assert len(full) > 15 and full <= known, full - known
