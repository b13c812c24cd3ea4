"""`resight serve` as a process of its own, and Debian's chromium looking at its page.

Skipped where playwright or a chromium is missing; RESIGHT_CHROMIUM names one that is not on the PATH.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")  # while playwright runs, no other test may have an event loop of its own
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = os.environ.get("RESIGHT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium; RESIGHT_CHROMIUM=… names one")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def _served(collection: Path, state: Path, *options: str) -> Iterator[str]:
    pytest.importorskip("uvicorn", reason="resight[serve] is not installed")
    program = "from resight.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", str(collection), "--port", "0", "--state", str(state), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), f"resight serve said {url!r}"
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def url(indexed, browser, tmp_path_factory) -> Iterator[str]:
    """Where the page over `indexed` is, to be searched only."""
    with _served(indexed, tmp_path_factory.mktemp("state")) as url:
        yield url


@pytest.fixture
def serve(browser, tmp_path) -> Iterator[Callable[..., str]]:
    """Serves a collection with options of a test's own; gives the address."""
    with ExitStack() as stack:
        yield lambda collection, *options: stack.enter_context(_served(collection, tmp_path / "state", *options))


@pytest.fixture
def open_page(browser, url):
    """Opens pages in contexts of their own. A page must say nothing to the console and break no policy."""
    contexts, problems = [], []

    def start(path: str = "", *, at: str = url, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(at + path)
        return page

    yield start
    for context in contexts:
        context.close()
    assert problems == []
