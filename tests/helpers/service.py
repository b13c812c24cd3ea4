"""A service as users run it, in a thread of the test or as a process, and what attackers send to it."""

import http.client
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from resight.server.app import App
from resight.server.run import listening, server
from resight.server.settings import Settings

SERVE = "import sys; from resight.cli.main import main; sys.argv[0] = 'resight'; main()"


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
    """A service in a thread."""
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


@dataclass(frozen=True)
class Process:
    """`resight serve` as a process. url: where it answers; http: asks it; facts: what the system says of it."""

    url: str
    http: httpx.Client
    facts: psutil.Process

    def memory(self) -> int:
        """Bytes of its own and its children's, without pages of files."""
        every = [self.facts, *self.facts.children(recursive=True)]
        return sum(one.memory_full_info().uss for one in every)

    def files(self) -> int:
        """Files and connections that are open in it."""
        return self.facts.num_fds()

    def connections(self) -> int:
        """That clients have to it."""
        return sum(one.status == psutil.CONN_ESTABLISHED for one in self.facts.net_connections("tcp"))

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a value of /metrics over its lines that have a text in them."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name) and label in line)


@contextmanager
def started(path: Path, *options: object, token: str, temporary: Path) -> Iterator[Process]:
    """A service in a process of its own. temporary: the folder for its temporary files."""
    command = [sys.executable, "-c", SERVE, "serve", path, "--port", 0, "--token", token, *options]
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = process.stdout.readline().partition("#token=")[0].strip().rstrip("/")
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
            assert http.get("/health").json()["ready"]
            yield Process(url, http, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(20)


def connected(url: str, timeout: float = 10, window: int | None = None) -> socket.socket:
    """A connection, as bytes. window: bytes that the system takes while we do not."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.socket()
    connection.settimeout(timeout)
    if window is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.connect((host, int(port)))
    return connection


def raw(url: str, request: bytes, timeout: float = 10) -> bytes:
    """What a service answers to bytes as they are, until it closes the connection."""
    with connected(url, timeout) as connection:
        connection.sendall(request)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """What still comes before the other side closes."""
    answer = b""
    try:
        while part := connection.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


def one_status(connection: socket.socket) -> int:
    """Of the next answer, which is read whole, of a connection that stays open."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status
