"""Fetching a file over HTTP: interrupted downloads go on where they stopped, and nothing unverified gets its name."""

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from resight.errors import ResightError
from resight.evaluation.datasets.dataset import File

Report = Callable[[str, int, int | None], None]
"""What is being fetched, bytes so far, and of how many."""

_BLOCK = 1 << 20
_ATTEMPTS = 5
_TIMEOUT = 60.0  # seconds without a byte
_KINDS = {32: "md5", 64: "sha256"}  # by the length of the hex text
_SUM = re.compile(r"[0-9a-fA-F]{32}(?:[0-9a-fA-F]{32})?")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def silent(name: str, done: int, total: int | None) -> None:
    """Reports nothing."""


def fetch(file: File, path: Path, *, report: Report = silent, wait: float = 1.0) -> str:
    """Download a file to a path, unless it is there; its sha256 in hex.

    wait: seconds before trying again, doubled each time.

    What has come is kept in ``path`` + ``.part`` and completed by a range request, now or in another run, as long as
    the server's file is the same (its ETag or Last-Modified). A file whose published checksum it does not have is
    removed. Where no checksum is published only the length is checked.
    Raises ResightError, saying whether running it again goes on.
    """
    if not file.address.startswith(("http://", "https://")):
        raise ResightError(f"{file.address}: is fetched by hand: only http and https can be resumed")
    wanted = {"sha256": file.sha256} if file.sha256 else _published_sum(file) if file.sums else {}
    if path.exists():
        return _verified(file, path, wanted)
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    failure = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            if _transfer(file.address, part, report):
                break
            failure = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise ResightError(f"{file.address}: the server says {error.code} {error.reason}") from error
            failure = f"the server says {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            failure = str(error) or type(error).__name__
    else:
        raise ResightError(f"{file.address}: {failure}; run it again to go on from where it stopped")
    found = _verified(file, part, wanted)
    part.replace(path)
    _validator(part).unlink(missing_ok=True)
    return found


def _transfer(address: str, part: Path, report: Report) -> bool:
    """Fetch what is missing; whether all is there. The validator is kept beside the part."""
    have = part.stat().st_size if part.exists() else 0
    validator = _validator(part)
    known = json.loads(validator.read_text("utf-8")) if have and validator.exists() else ""
    headers = {"User-Agent": "resight", "Accept-Encoding": "identity"}
    if have and known:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if (error.headers.get("Content-Range") or "").rpartition("/")[2] == str(have):
            return True
        part.unlink()  # longer than the server's file: not of it
        return False
    with answer:
        start, total = _extent(answer, have)
        tag = answer.headers.get("ETag") or ""
        weak = tag[:2] in ("", "W/")  # promises nothing about bytes
        validator.write_text(json.dumps(answer.headers.get("Last-Modified") or "" if weak else tag), "utf-8")
        with part.open("r+b" if start else "wb") as out:
            out.seek(start)
            done = start
            while block := answer.read(_BLOCK):
                out.write(block)
                done += len(block)
                report(part.name.removesuffix(".part"), done, total)
            out.flush()
            os.fsync(out.fileno())
    return total is None or done == total


def _extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where an answer's bytes begin, and how long the whole file is."""
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range") or "")
        if match is None or int(match[1]) != have:
            raise http.client.HTTPException("the server answers another range than was asked for")
        return have, int(match[2])
    length = answer.headers.get("Content-Length")
    return 0, None if length is None else int(length)


def _verified(file: File, path: Path, wanted: Mapping[str, str]) -> str:
    """The sha256 of a file that has its published checksum, by its kind; one that has not is removed."""
    sums = {kind: hashlib.new(kind, usedforsecurity=False) for kind in ("sha256", *wanted)}
    with path.open("rb") as data:
        while block := data.read(_BLOCK):
            for each in sums.values():
                each.update(block)
    for kind, published in wanted.items():
        if (found := sums[kind].hexdigest()) != published.lower():
            path.unlink()
            _validator(path).unlink(missing_ok=True)
            raise ResightError(
                f"{file.address}: this came damaged, or is another file: its {kind} is {found}, not {published}, "
                "and it was removed: run it again"
            )
    return sums["sha256"].hexdigest()


def _published_sum(file: File) -> dict[str, str]:
    try:
        with urllib.request.urlopen(file.sums, timeout=_TIMEOUT) as answer:
            text = answer.read(1 << 24).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise ResightError(f"{file.sums}: the checksum cannot be fetched: {error}; run it again") from error
    lines = [line.split() for line in text.splitlines() if line.strip()]
    own = [words[0] for words in lines if words[-1].lstrip("*").rsplit("/", 1)[-1] == file.name]
    alone = [lines[0][0]] if len(lines) == 1 and len(lines[0]) == 1 else []
    for found in own or alone:
        if _SUM.fullmatch(found):
            return {_KINDS[len(found)]: found}
    raise ResightError(f"{file.sums}: has no md5 or sha256 of {file.name}")


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")
