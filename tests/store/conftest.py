"""Collections of made-up descriptions, for tests of what becomes of them on disk."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from qdrant_client import QdrantClient, models

from resight.describe.description import Description
from resight.describe.local_features import load_local
from resight.embedding.codebook import Codebook
from resight.local.features import LocalFeatures
from resight.recipes import Recipe
from resight.store.store import New, Store
from resight.store.workers import _describe


def features(seed: int, n: int) -> LocalFeatures:
    """n features whose descriptors crowd around 40 places, so that pictures share words."""
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(0).integers(40, 200, (40, 128))
    descriptors = middle[rng.integers(0, 40, n)] + rng.integers(-30, 30, (n, 128))
    xy, size, angle, score = (rng.uniform(0, 6, (n, k)).astype(np.float32) for k in (2, 1, 1, 1))
    return LocalFeatures(xy, size[:, 0] + 1, angle[:, 0], score[:, 0], descriptors.astype(np.uint8))


@pytest.fixture(scope="session")
def recipe(recipe) -> Recipe:
    """As elsewhere, but quick: with few features, and without colours."""
    return recipe.model_copy(update={"local": recipe.local.model_copy(update={"max_features": 200, "colours": 0})})


@pytest.fixture(scope="session")
def made_up() -> Callable[[int, int], LocalFeatures]:
    return features


@pytest.fixture(scope="session")
def codebook() -> Codebook:
    sample = np.concatenate([features(seed, 60).descriptors for seed in range(10)])
    return Codebook.fit(sample, 32, seed=0, fitted_on="made up")


@pytest.fixture(scope="session")
def new() -> Callable[[str, LocalFeatures], New]:
    """An image of features at an origin, to be stored."""
    return lambda origin, local: New(origin, f"digest of {origin}", 1, 2, Description((640, 480), None, local))


@pytest.fixture
def store(tmp_path, recipe):
    """An empty collection, open for writing."""
    with Store.create(tmp_path / "collection", recipe, "f00d") as made:
        yield made


@pytest.fixture
def filled(store, new, codebook) -> Store:
    """A collection with a codebook and images /0 … /5, of 30, 0, 45, 60, 75 and 90 features."""
    store.start_generation(codebook, {"words": 32, "fitted_on": "made up"})
    for first in (0, 3):
        sizes: Sequence[int] = (30, 0, 45, 60, 75, 90)[first : first + 3]
        store.add([new(f"/{first + i}", features(first + i, n)) for i, n in enumerate(sizes)], [], codebook)
    return store


@pytest.fixture
def in_this_process(monkeypatch) -> list[str]:
    """Has files described in this process, by what the workers run. Records the names of those that were."""
    described = []

    def describe_files(sources, recipe, known, *, workers: int, timeout: float, feedings=(), ahead=0):
        monkeypatch.setattr("resight.store.workers._recipe", recipe, raising=False)
        local = None if recipe.local is None else load_local(recipe.local, recipe.name)
        monkeypatch.setattr("resight.store.workers._local", local, raising=False)
        monkeypatch.setattr("resight.store.workers._feedings", feedings, raising=False)
        monkeypatch.setattr("resight.store.workers._known", known, raising=False)
        for source in sources:
            outcome = _describe(source)
            if outcome.size is not None:
                described.append(Path(source.origin).name)
            yield outcome

    monkeypatch.setattr("resight.store.indexing.describe_files", describe_files)
    return described


@pytest.fixture(scope="session")
def flip() -> Callable[[Path, int], None]:
    """Flips a bit of a file's byte."""

    def damage(path: Path, at: int) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x10
        path.write_bytes(data)

    return damage


@pytest.fixture
def large(photos, tmp_path) -> Path:
    """A picture with 400 MB of nothing behind it, which take a while to read."""
    path = tmp_path / "large.png"
    path.write_bytes((photos / "coffee-1.png").read_bytes())
    os.truncate(path, 400_000_000)
    return path


@pytest.fixture(scope="session")
def reader_of() -> Callable[[Path, int], psutil.Process | None]:
    """Finds the child of a process that has a file open, if there is one just now."""

    def find(path: Path, parent: int) -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(parent).children():
                with suppress(psutil.Error):
                    if str(path) in (file.path for file in child.open_files()):
                        return child
        return None

    return find


class QdrantServer:
    """Qdrant's REST interface over the embedded Qdrant of its own client; or, by ``mode``, a server with a trouble.

    mode: "well", "mute", "closing", "nonsense", or the status of all its answers. asked: method, path, token and body
    of each request. token: what it asks for, if anything. metadata: False for a server that does not know of any.
    """

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.mode: str | int = "well"
        self.token: str | None = None
        self.metadata = True
        self.asked: list[tuple[str, str, str | None, dict]] = []
        self.lock, self.over = threading.Lock(), threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def result(self, method: str, name: str, what: str, body: dict) -> object:
        """What the embedded Qdrant says to a request of ``/collections/name/what``."""
        client = self.client
        match method, what:
            case "GET", "exists":
                return {"exists": client.collection_exists(name)}
            case "GET", "":
                return client.get_collection(name).model_dump(mode="json")
            case "PUT", "":
                vectors = models.VectorParams.model_validate(body["vectors"])
                metadata = body["metadata"] if self.metadata else None
                return client.create_collection(name, vectors_config=vectors, metadata=metadata)
            case "PATCH", "":
                return client.update_collection(name, metadata=body["metadata"])
            case "DELETE", "":
                return client.delete_collection(name)
            case "POST", "points/count":
                return client.count(name, exact=body["exact"]).model_dump()
            case "PUT", "points":
                return client.upsert(name, models.Batch.model_validate(body["batch"])).model_dump(mode="json")
            case "POST", "points/delete":
                return client.delete(name, models.PointIdsList.model_validate(body)).model_dump(mode="json")
            case "POST", "points/query/batch":
                searches = [models.QueryRequest.model_validate(search) for search in body["searches"]]
                return [answer.model_dump(mode="json") for answer in client.query_batch_points(name, searches)]
            case "POST", "points/scroll":
                points, offset = client.scroll(
                    name, limit=body["limit"], offset=body.get("offset"), with_payload=body["with_payload"]
                )
                return {"points": [point.model_dump(mode="json") for point in points], "next_page_offset": offset}
        raise AssertionError(f"{method} {what} is not what resight asks")


def _handler(server: QdrantServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            token = self.headers.get("api-key")
            server.asked.append((self.command, path, token, json.loads(body or b"{}")))
            if server.mode == "mute":
                server.over.wait(20)
            elif server.mode == "nonsense":
                self._send(200, b"<html>It works!</html>")
            elif isinstance(server.mode, int):
                self._send(server.mode, json.dumps({"status": {"error": f"no, {token}"}}).encode())
            elif server.mode == "well" and server.token != token:
                self._send(403, b"Invalid api-key")
            elif server.mode == "well":
                _, _, name, *what = path.split("/")
                with server.lock:
                    result = server.result(self.command, name, "/".join(what), json.loads(body or b"{}"))
                self._send(200, json.dumps({"result": result, "status": "ok", "time": 0.0}).encode())
            self.close_connection = True

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def qdrant_server():
    server = QdrantServer()
    yield server
    server.close()
