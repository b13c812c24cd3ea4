"""The page that is committed: built from the source beside it, small, and allowed by the policy it is served with."""

import gzip
import hashlib
import json
import re
from importlib import resources
from pathlib import Path

import pytest

STATIC = Path(str(resources.files("resight.server").joinpath("static")))
SOURCE = Path(__file__).parents[2] / "web"


def test_it_was_built_from_this_source():
    if not SOURCE.is_dir():
        pytest.skip("the page's source is not here")
    files = [path for path in SOURCE.glob("src/**/*") if path.is_file()]
    files += [SOURCE / name for name in ("index.html", "package-lock.json", "tsconfig.json", "vite.config.ts")]
    found = {path.relative_to(SOURCE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    built = json.loads((STATIC / "built-from.json").read_text("utf-8"))
    assert built == found, "build the page again: npm ci && npm run build, in web/"


def test_it_knows_all_that_a_search_may_be_asked():
    """It tells by the text of both whether what was searched for is what it shows: the same keys in the same order."""
    pytest.importorskip("fastapi", reason="resight[serve] is not installed")
    from resight.server.schemas import SearchRequest

    if not SOURCE.is_dir():
        pytest.skip("the page's source is not here")
    interface = re.search(
        r"export interface Request \{(.*?)\n\}", (SOURCE / "src/api.ts").read_text("utf-8"), re.DOTALL
    )
    assert interface is not None
    assert re.findall(r"^  (\w+):", interface[1], re.MULTILINE) == list(SearchRequest.model_fields)


def test_it_weighs_less_than_150_kb():
    sent = [path for path in STATIC.rglob("*") if path.is_file() and path.name != "built-from.json"]
    assert sum(len(gzip.compress(path.read_bytes())) for path in sent) < 150_000


def test_it_has_nothing_inline_and_nothing_from_elsewhere():
    html = (STATIC / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    used = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert used
    for address in used:
        assert address.startswith("/static/assets/") and (STATIC / address.removeprefix("/static/")).is_file()
    for script in STATIC.glob("assets/*.js"):
        hosts = set(re.findall(r"https?://([\w.-]+)", script.read_text("utf-8")))
        assert hosts <= {"www.w3.org"}  # names of XML namespaces
