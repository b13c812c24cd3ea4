"""`resight serve` as a process: it says where it is, answers there, and ends cleanly."""

import signal
from pathlib import Path

import httpx
import pytest

from resight.cli.serve import serve
from resight.errors import ResightError
from service import SERVE


def test_it_serves_until_it_is_told_to_stop(python, indexed, tmp_path):
    token = "a token for this test"
    process = python(SERVE, "serve", indexed, "--port", 0, "--token", token, "--state", tmp_path)
    url, _, shown = process.stdout.readline().strip().partition("#token=")
    assert shown == token and url.startswith("http://127.0.0.1:")
    with httpx.Client(base_url=url, trust_env=False, headers={"Authorization": f"Bearer {token}"}) as http:
        found = http.post("/v1/searches?wait=30", json={"examples": [{"image": 1}], "top": 2}).json()
    assert found["state"] == "done" and len(found["results"]) == 2
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0 and "Traceback" not in log and "POST /v1/searches 200" in log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": "0.0.0.0", "token": "short"}, "16 characters"),
        ({"photos": [Path()]}, "--write"),
        ({"write": True, "photos": [Path("/no/such/folder")]}, "no such folder"),
        ({"host": "no.such.host.invalid", "token": "a token for this test"}, "cannot be listened on"),
    ],
)
def test_what_cannot_be_is_said_at_once(indexed, tmp_path, arguments, message):
    with pytest.raises(ResightError, match=message):
        serve(str(indexed), state=tmp_path, **arguments)
