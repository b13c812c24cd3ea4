"""A connection to a Qdrant server: which addresses and tokens are allowed, and what its failures mean, in words."""

import ipaddress
import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from resight.errors import CollectionError

TOKEN = "RESIGHT_VECTORDB_TOKEN"
_SECONDS = 30  # until a server that says nothing is given up
_SHOWN = 200  # characters of a server's own words


class EngineError(CollectionError):
    """A vector database that cannot be reached, refuses, or holds something else. The collection itself is sound."""


def checked_url(url: str) -> str:
    """The address of a server, without a slash at the end. Raises EngineError for what is none, or has a secret in it.

    The message for a secret does not repeat the address.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise EngineError("--url: is no address; write it as https://qdrant.example.org:6333") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise EngineError(
            f"--url: an address at {host} with a name, password or parameters in it would be stored with the "
            f"collection; give the address alone, and the token in {TOKEN}"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise EngineError(f"--url {url}: is no address; write it as https://qdrant.example.org:6333")
    return url.strip().rstrip("/")


def connect(url: str, *, insecure: bool) -> Any:
    """A client of the server at an address, with the token of the environment if there is one; asks nothing of it yet.

    insecure: whether the token may travel unencrypted to another machine. Raises EngineError where it may not, and
    where the token cannot be one. Call inside ``answering``.
    """
    token, ours = _token(), _is_this_machine(url)
    if token is not None and urlsplit(url).scheme == "http" and not ours and not insecure:
        raise EngineError(
            f"{url}: the token in {TOKEN} would travel unencrypted; use https, or --insecure in a network you trust"
        )
    return _client(url, token, ours, _SECONDS)


@lru_cache(maxsize=8)
def _client(url: str, token: str | None, ours: bool, seconds: int) -> Any:
    """Kept, since to make one reads the certificates of all authorities, and since it keeps its connections."""
    from qdrant_client import QdrantClient

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")  # judged already
        return QdrantClient(
            url=url,
            api_key=token,
            timeout=seconds,
            check_compatibility=False,  # which asks behind our back and only warns
            trust_env=not ours,  # what stays on this machine goes through no proxy
        )


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Turns what the client raises when a server refuses or does not answer into an EngineError with the address.

    So it does where the client is not installed.
    """
    try:
        from httpx import TimeoutException
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    except ModuleNotFoundError as error:
        raise EngineError(f"{url}: Qdrant needs {error.name}: pip install 'resight[qdrant]'") from error

    try:
        yield
    except UnexpectedResponse as error:
        raise EngineError(_refusal(url, error)) from error
    except ResponseHandlingException as error:
        if isinstance(error.source, TimeoutException):
            raise EngineError(f"{url}: does not answer within {_SECONDS} seconds; see whether it is well") from error
        if isinstance(error.source, ValueError):  # an answer that the client cannot read
            raise EngineError(f"{url}: answers, but not as Qdrant does; check the address") from error
        reason = _without_token(str(error.source) or type(error.source).__name__)
        raise EngineError(f"{url}: cannot be reached ({reason}); see whether it is running") from error
    except (json.JSONDecodeError, UnicodeDecodeError, AssertionError) as error:  # as the client has it for no result
        raise EngineError(f"{url}: answers, but not as Qdrant does; check the address") from error
    except QdrantException as error:
        raise EngineError(f"{url}: is busy ({_without_token(str(error))}); try again later") from error


def _refusal(url: str, error: Any) -> str:
    code = int(error.status_code or 0)
    if code in (401, 403):
        if _token() is None:
            return f"{url}: asks for a token ({code}); put it into {TOKEN}"
        return f"{url}: refuses the token ({code}); put one that may read and write the collection into {TOKEN}"
    return f"{url}: answers {code} {error.reason_phrase}{_said(error.content)}"


def _said(content: bytes) -> str:
    """The server's own reason, from the body of its answer."""
    try:
        reason = json.loads(content)["status"]["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {_without_token(str(reason))[:_SHOWN]}"


def _token() -> str | None:
    """The token of the environment. EngineError, which does not show it, where a request could not carry it."""
    token = os.environ.get(TOKEN, "").strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise EngineError(f"{TOKEN}: holds spaces or letters that no token has; set it anew")
    return token or None


def _without_token(text: str) -> str:
    token = _token()
    return text if token is None else text.replace(token, "***")


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
