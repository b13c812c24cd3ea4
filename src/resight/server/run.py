"""Serving until Ctrl-C."""

import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from resight.errors import ServiceError
from resight.server.app import App
from resight.server.connections import Connection
from resight.server.metrics import Lines
from resight.server.settings import Settings


def serve(path: Path, settings: Settings, ready: Callable[[int], None] = lambda port: None) -> None:
    """Answer requests until the process is told to end. ready: is told the port once requests are accepted.

    Raises CollectionError where there is no collection and ServiceError where the address cannot be had.
    """
    app = App(path, settings)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    for name in ("resight.server", "uvicorn"):
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("resight.server").setLevel(logging.INFO)
    try:
        with listening(settings) as listener:
            ready(listener.getsockname()[1])
            server(app, settings).run([listener])
    finally:
        app.close()


def listening(settings: Settings) -> socket.socket:
    """A socket that accepts connections already; port 0 is any free one."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With its protocol named, or asyncio leaves Nagle's algorithm on, and each answer waits 40 ms for an ACK.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host, settings.port))
        made.listen(256)
    except OSError as error:
        made.close()
        raise ServiceError(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror or error}"
        ) from error
    return made


def server(app: App, settings: Settings) -> uvicorn.Server:
    """Its own log of requests is off, since ours escapes what they say; no header about a proxy is trusted."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
            log_config=None,
            log_level="warning",
            http=Connection,
            ws="none",
        )
    )
