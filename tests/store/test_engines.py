"""Connecting a Qdrant server, on the command line and off: what travels, what is stored, and what its troubles say."""

import json
import socket
import sys

import numpy as np
import pytest
from made_vectors import vector_news, vector_recipe
from typer.testing import CliRunner

from resight.cli.main import app
from resight.errors import CollectionError
from resight.search import nearest
from resight.search.collection import Collection
from resight.search.index_tuning import Wanted
from resight.store import qdrant_connection
from resight.store.engines import connect_engine, engine_state
from resight.store.indexing import AddReport
from resight.store.qdrant_connection import TOKEN, EngineError, checked_url
from resight.store.qdrant_engine import EngineFacts
from resight.store.store import Store
from resight.store.vector_index import IndexChoice
from resight.store.vector_indexing import build_index

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")
D, N = 8, 150
SECRET = "s3cret-t0ken"


def vectors(seed, n):
    x = np.random.default_rng(seed).normal(size=(n, D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch):
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setattr(nearest, "FEW", 20)


@pytest.fixture
def folder(tmp_path):
    with Store.create(tmp_path / "c", vector_recipe(D), "f" * 64) as made:
        made.add(vector_news(0, vectors(1, N)), [], None)
    return tmp_path / "c"


@pytest.fixture
def resight():
    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def connected(folder, resight, qdrant_server):
    """A collection that is searched through the server."""
    result = resight("engine", folder, "--url", qdrant_server.url, "--name", "ours", "--codes", "binary")
    assert result.exit_code == 0, result.stderr
    return folder


def test_connecting_fills_and_searching_asks(connected, resight, qdrant_server):
    shown = json.loads(resight("engine", connected, "--show", "--json").stdout)
    expected = {"name": "ours", "codes": "binary", "depth": 5, "described": N, "held": N, "lacking": 0, "behind": False}
    assert shown == expected | {"url": qdrant_server.url}
    qdrant_server.asked.clear()
    found = json.loads(resight("search", connected, "id:7", "--top", 4, "--all", "--json").stdout)
    x = vectors(1, N)
    order = [i + 1 for i in np.argsort(-(x @ x[6]), kind="stable") if i != 6]
    assert [r["id"] for q in found["queries"] for r in q["results"]] == order[:4]
    (search,) = [body for _, path, _, body in qdrant_server.asked if path.endswith("query/batch")]
    assert [s["limit"] for s in search["searches"]] == [25] * 2  # depth 5 for the query and four results
    assert all(s["params"]["quantization"] == {"rescore": False} for s in search["searches"])
    assert "up to date     yes" in resight("engine", connected, "--show").stdout


@pytest.mark.parametrize(
    ("codes", "config", "on_disk"),
    [
        ("binary", {"binary": {"always_ram": True}}, True),
        ("scalar", {"scalar": {"type": "int8", "always_ram": True}}, True),
        ("none", None, False),
    ],
)
def test_what_is_asked_for_and_all_that_travels(folder, qdrant_server, codes, config, on_disk):
    with Store(folder, write=True) as store:
        connect_engine(store, qdrant_server.url, "n", lambda _: None, codes=codes, depth=3)
        owner = store.engine().facts.owner
        assert store.index().choice.depth == 3
    (made,) = [body for method, path, _, body in qdrant_server.asked if method == "PUT" and path == "/collections/n"]
    assert made.get("quantization_config") == config
    assert made["vectors"] == {"size": D, "distance": "Dot", "on_disk": on_disk}
    metadata = {"owner": owner, "fingerprint": "f" * 64, "codes": codes, "newest": -1}
    assert made["metadata"] == {f"resight_{key}": value for key, value in metadata.items()}
    sent = [body for method, path, _, body in qdrant_server.asked if method == "PUT" and path.endswith("points")]
    assert all(body.keys() == {"batch"} and body["batch"].keys() == {"ids", "vectors"} for body in sent)
    np.testing.assert_array_equal(np.float32([v for body in sent for v in body["batch"]["vectors"]]), vectors(1, N))


def test_the_token_travels_and_is_stored_nowhere(folder, resight, qdrant_server, monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    qdrant_server.token = SECRET
    result = resight("engine", folder, "--url", qdrant_server.url, "--name", "ours")
    assert result.exit_code == 0 and {token for _, _, token, _ in qdrant_server.asked} == {SECRET}
    assert SECRET not in result.output
    assert not any(SECRET.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert resight("search", folder, "id:1").exit_code == 0
    qdrant_server.mode = 500  # with the token in the server's own words
    result = resight("search", folder, "id:1")
    assert result.exit_code == 2 and "answers 500" in result.stderr and "no, ***" in result.stderr
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("mode", "token", "said"),
    [
        (401, None, f"asks for a token \\(401\\); put it into {TOKEN}"),
        (403, SECRET, f"refuses the token \\(403\\); put one that may .* into {TOKEN}"),
        (404, None, "answers 404 Not Found"),
        (302, None, "answers 302 Found"),
        (429, None, "answers 429 Too Many Requests"),
        ("closing", None, r"cannot be reached \(.+\); see whether it is running"),
        ("nonsense", None, "answers, but not as Qdrant does; check the address"),
        ("mute", None, "does not answer within 1 seconds"),
    ],
)
def test_troubles_of_a_server(folder, resight, qdrant_server, monkeypatch, mode, token, said):
    """Connecting says what is wrong, and leaves the collection as it was; so does a search, which can do without."""
    monkeypatch.setattr(qdrant_connection, "_SECONDS", 1)
    if token is not None:
        monkeypatch.setenv(TOKEN, token)
    qdrant_server.mode = mode
    with Store(folder, write=True) as store:
        with pytest.raises(EngineError, match=f"{qdrant_server.url}: {said}"):
            connect_engine(store, qdrant_server.url, "ours", lambda _: None)
        assert store.index() is None
        qdrant_server.mode, qdrant_server.token = "well", token
        connect_engine(store, qdrant_server.url, "ours", lambda _: None)
    qdrant_server.mode = mode
    with Collection.open(folder) as collection:
        with pytest.raises(CollectionError, match=rf"{qdrant_server.url}: {said}.* --exact \(exact=True\) searches"):
            collection.search(7, top=3)
        assert collection.search(7, top=3, exact=True).ids[0] == 7


def test_nobody_listens(folder, resight):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    result = resight("engine", folder, "--url", url, "--name", "ours")
    assert result.exit_code == 2
    assert f"{url}: cannot be reached ([Errno 111] Connection refused); see whether it is running" in result.stderr


def test_without_the_client(folder, resight, monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client.common.client_exceptions", None)
    result = resight("engine", folder, "--url", "http://localhost:6333", "--name", "ours")
    assert result.exit_code == 2 and "pip install 'resight[qdrant]'" in result.stderr


def test_a_server_without_metadata_of_collections(folder, qdrant_server):
    qdrant_server.metadata = False
    with Store(folder, write=True) as store, pytest.raises(EngineError, match=r"Qdrant 1\.16 or newer does"):
        connect_engine(store, qdrant_server.url, "ours", lambda _: None)
    assert not qdrant_server.client.collection_exists("ours")


def test_what_others_made_is_left_alone(folder, resight, qdrant_server):
    from qdrant_client import models

    params = models.VectorParams(size=D, distance=models.Distance.DOT)
    qdrant_server.client.create_collection("theirs", vectors_config=params, metadata={"made": "by hand"})
    result = resight("engine", folder, "--url", qdrant_server.url, "--name", "theirs")
    assert result.exit_code == 2 and "was not made by resight, and is left alone" in result.stderr
    assert qdrant_server.client.count("theirs").count == 0
    assert {method for method, *_ in qdrant_server.asked} <= {"GET", "POST"}
    assert not any(path.endswith("delete") for _, path, *_ in qdrant_server.asked)


def test_removing_without_the_server_says_so_and_sync_catches_up(connected, resight, qdrant_server):
    qdrant_server.mode = "closing"
    result = resight("remove", connected, "id:3", "id:4")
    assert result.exit_code == 0 and "2 images removed" in result.stdout
    said = f"its vector database is not: {qdrant_server.url}: cannot be reached"
    assert said in result.stderr and f"`resight engine {connected} --sync` catches up" in result.stderr
    qdrant_server.mode = "well"
    with Store(connected, write=False) as store:
        assert engine_state(store).held == N and engine_state(store).behind
    assert "up to date     no; --sync catches up" in resight("engine", connected, "--show").stdout
    assert resight("engine", connected, "--sync").exit_code == 0
    with Store(connected, write=False) as store:
        assert engine_state(store).held == N - 2 and not engine_state(store).behind


def test_adding_without_the_server_loses_nothing(connected, qdrant_server, monkeypatch):
    def add(store, *_, **__):
        """What an indexing run leaves, without a network to describe photos with."""
        store.add(vector_news(N, vectors(2, 9)), [], None)
        return AddReport(9, 0, 0, 0, 0, 0, 0.0, "Advice.")

    monkeypatch.setattr("resight.search.collection.indexing.add", add)
    monkeypatch.setattr(Collection, "_check_fingerprint", lambda _: None)
    qdrant_server.mode = 503
    with Collection.open(connected, write=True) as collection:
        report = collection.add(["photos"])
        assert report.advice.startswith("Advice. The collection is up to date, its vector database is not: ")
        assert "answers 503" in report.advice and report.advice.endswith(" --sync` catches up.")
        assert len(collection) == N + 9
        qdrant_server.mode = "well"
        assert collection.engine_state().lacking == 9
        assert collection.search(N + 5, top=1).ids.tolist() == [N + 5]  # compared, since it is newer
        assert collection.add(["photos"]).advice == "Advice."
        assert collection.engine_state().lacking == 0


def test_an_index_and_an_engine_exclude_each_other(folder, qdrant_server):
    with Store(folder, write=True) as store:
        store.set_index(build_index(store, store.snapshot(), IndexChoice("SQ8")), N)
        connect_engine(store, qdrant_server.url, "ours", lambda _: None)
        assert not list(folder.glob("index-*"))
        with pytest.raises(CollectionError, match=f"is searched through ours at {qdrant_server.url}; --drop it first"):
            connect_engine(store, qdrant_server.url, "another", lambda _: None)
    with Collection.open(folder, write=True) as collection:
        for change in (lambda: collection.tune(Wanted()), collection.drop_index):
            with pytest.raises(CollectionError, match="an index beside it would not be used"):
                change()


def test_dropping(connected, resight, qdrant_server):
    qdrant_server.mode = "closing"
    assert resight("engine", connected, "--drop", "--delete").exit_code == 2
    with Store(connected, write=False) as store:
        assert store.engine() is not None
    qdrant_server.mode = "well"
    assert resight("engine", connected, "--drop", "--delete").exit_code == 0
    assert not qdrant_server.client.collection_exists("ours")
    assert "is searched through no vector database" in resight("engine", connected, "--show").stderr


def test_a_recipe_without_global_descriptors(tmp_path, qdrant_server, recipe):
    said = "does not search by one global descriptor an image"
    with Store.create(tmp_path / "sift", recipe, "f" * 64) as store, pytest.raises(CollectionError, match=said):
        connect_engine(store, qdrant_server.url, "ours", lambda _: None)
    assert qdrant_server.asked == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say one thing"),
        (["--sync", "--show"], "say one thing"),
        (["--url", "http://localhost"], "belong together"),
        (["--sync", "--name", "n"], "belong together"),
        (["--show", "--delete"], "--delete belongs to --drop"),
        (["--url", "http://localhost", "--name", "../n"], "a name is letters, digits"),
        (["--url", "ftp://localhost", "--name", "n"], "is no address"),
        (["--url", "http://localhost", "--name", "n", "--codes", "pq"], "choose one of binary, scalar, none"),
        (["--sync"], "is searched through no vector database; --url and --name connect one"),
    ],
)
def test_command_lines_that_cannot_be(folder, resight, arguments, said):
    result = resight("engine", folder, *arguments)
    assert result.exit_code == 2 and said in result.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{SECRET}@example.org",
        f"https://{SECRET}@example.org:6333",
        f"https://example.org?api_key={SECRET}",
        f"https://example.org/#{SECRET}",
        f"https://me:{SECRET}@example.org:port",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(EngineError) as refused:
        checked_url(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", ["", "example.org", "https://", "http://[::1", "file:///etc/passwd", "http://x:99999"])
def test_what_is_no_address(url):
    with pytest.raises(EngineError, match="is no address"):
        checked_url(url)


def test_a_token_goes_unencrypted_to_this_machine_only(monkeypatch):
    monkeypatch.setenv(TOKEN, SECRET)
    for url in ("http://127.0.0.1:6333", "http://[::1]:6333", "http://localhost", "https://example.org"):
        qdrant_connection.connect(url, insecure=False)
    for url in ("http://example.org", "HTTP://example.org", "http://10.0.0.7:6333", "http://localhost.example.org"):
        with pytest.raises(EngineError, match="would travel unencrypted; use https, or --insecure"):
            qdrant_connection.connect(url, insecure=False)
        qdrant_connection.connect(url, insecure=True)
    monkeypatch.delenv(TOKEN)
    qdrant_connection.connect("http://example.org", insecure=False)


@pytest.mark.parametrize("token", ["two words", "new\nline", "ümlaut", "nul\x7f"])
def test_what_is_no_token_is_not_repeated(monkeypatch, token):
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(EngineError, match=f"{TOKEN}: holds spaces or letters that no token has") as refused:
        qdrant_connection.connect("https://example.org", insecure=False)
    assert token not in str(refused.value)


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"dimension": 0}])
def test_facts_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        EngineFacts(**{"url": "http://localhost", "name": "n", "owner": "o", "dimension": 3} | wrong)
