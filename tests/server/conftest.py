"""A service as users run it: uvicorn on a free port of this machine, over the small collection of all tests."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from resight.server.settings import Settings
from service import Served, running


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[..., Served]]:
    """Starts services with settings of a test's own."""
    with ExitStack() as stack:

        def start(path: Path, **settings) -> Served:
            settings = {"port": 0, "state": tmp_path / "state", **settings}
            return stack.enter_context(running(path, Settings(**settings)))

        yield start


@pytest.fixture(scope="module")
def served(indexed, tmp_path_factory) -> Iterator[Served]:
    """A service that only reads, for a whole file of tests."""
    settings = Settings(port=0, state=tmp_path_factory.mktemp("state"), upload_bytes=2_000_000, upload_pixels=2_000_000)
    with running(indexed, settings) as found:
        yield found


@pytest.fixture
def own(indexed, tmp_path) -> Path:
    """A copy of the collection, to be written to."""
    return Path(shutil.copytree(indexed, tmp_path / "own"))


@pytest.fixture
def upload(photos):
    """Brings a photo of the folder to a service; the id that it gives."""

    def bring(found: Served, name: str = "coffee-2.jpg") -> str:
        answer = found.http.post("/v1/queries", files={"image": (photos / name).read_bytes()})
        assert answer.status_code == 201
        return answer.json()["query"]

    return bring
