"""A service as users run it: uvicorn on a free port of this machine, over the small collection of all tests."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from resight.server.app import App
from resight.server.run import listening, server
from resight.server.settings import Settings


@dataclass(frozen=True)
class Served:
    """url: where the service answers. app: what answers. http: asks it."""

    url: str
    app: App
    http: httpx.Client

    def wait(self, name: str) -> dict:
        """A search, when it has ended."""
        with self.http.stream("GET", f"/v1/searches/{name}/events") as events:
            for _ in events.iter_lines():
                pass
        return self.http.get(f"/v1/searches/{name}").json()


@contextmanager
def running(path: Path, settings: Settings) -> Iterator[Served]:
    app = App(path, settings)
    with listening(settings) as listener:
        uvicorn = server(app, settings)
        thread = threading.Thread(target=uvicorn.run, args=[[listener]], daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        headers = {} if settings.token is None else {"Authorization": f"Bearer {settings.token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as http:
            yield Served(url, app, http)
        uvicorn.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


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
