"""What every request passes: who may ask, how much they may send, and what every answer forbids the browser.

The service fetches nothing, and says nothing to pages of other sites: no CORS header is ever sent. On loopback, where
no token is demanded, the Host header tells requests that a name of an attacker's, bound to 127.0.0.1 (DNS rebinding),
has led here; Origin and Sec-Fetch-Site tell those of other sites' pages.
"""

import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resight.server.metrics import Metrics, in_a_line
from resight.server.problems import Refused
from resight.server.replies import refused_reply
from resight.server.settings import MIB, Settings, is_loopback

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_JSON = MIB  # bytes of a body that is no picture
_FORM = MIB  # bytes of a form beside its pictures
_PICTURES = ("/v1/queries", "/v1/search")  # which read a form, piece by piece, to the disk
_OPEN = ("/", "/health", "/favicon.ico")
_WRITING = ("POST", "PUT", "PATCH", "DELETE")


class Guard:
    """ASGI middleware, outside of all else."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, pictures: int) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._largest = pictures * settings.upload_bytes + _FORM

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # no web sockets are spoken
            return None
        began, status, body = time.perf_counter(), 0, _Bounded(receive)

        async def answer(message: Message) -> None:
            nonlocal status
            if body.over and not status:  # whatever the application makes of a body that broke off
                return
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            body.limit = self._admitted(scope)
            await self._app(scope, body, answer)
            if body.over and not status:
                await self._break_off(scope, body, answer)
        except Refused as refused:
            if status:
                raise
            if body.over:
                await self._break_off(scope, body, answer)
            else:
                await refused_reply(refused)(scope, receive, answer)
        finally:
            took = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.answered(_known(scope["method"]), route, status or 500, took)
            self._metrics.log.info("%s %s %d %.3f s", _known(scope["method"]), in_a_line(scope["path"]), status, took)

    @staticmethod
    async def _break_off(scope: Scope, body: "_Bounded", answer: Send) -> None:
        """Refuse, and take no more of what is still coming."""
        body.over = False
        reply = refused_reply(too_large(body.limit))
        reply.headers["Connection"] = "close"
        await reply(scope, body, answer)

    def _admitted(self, scope: Scope) -> int:
        """Bytes that the request may have; Refused where it is not one of ours."""
        headers, method = Headers(scope=scope), scope["method"]
        host, public = headers.get("host", "").lower(), self._settings.public_host
        if is_loopback(self._settings.host) and not is_loopback(_name(host)) and host != public:
            raise Refused(421, "host", "this service answers to 127.0.0.1 and localhost")
        site = headers.get("sec-fetch-site", "same-origin")
        if scope["path"].startswith("/v1") and site not in ("same-origin", "none"):
            raise Refused(403, "origin", "pages of other sites may not use this service")
        origin = headers.get("origin")
        ours = {f"{scheme}://{name}" for scheme in ("http", "https") for name in (host, public)}
        if method in _WRITING and origin is not None and origin.lower() not in ours:
            raise Refused(403, "origin", "pages of other sites may not use this service")
        if self._settings.token is not None and not self._is_open(scope) and not self._has_token(headers):
            raise Refused(401, "token", "this service needs its token: Authorization: Bearer TOKEN")
        limit = self._largest if scope["path"] in _PICTURES else _JSON
        length = headers.get("content-length")
        if length is not None and (not length.isdecimal() or len(length) > 18 or int(length) > limit):
            raise too_large(limit)
        return limit

    @staticmethod
    def _is_open(scope: Scope) -> bool:
        """The page itself, which knows the token only once it is loaded, and whether the service is up."""
        return scope["method"] in ("GET", "HEAD") and (scope["path"] in _OPEN or scope["path"].startswith("/static/"))

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        told = given.strip().encode("utf-8", "surrogateescape")
        return scheme.lower() == "bearer" and secrets.compare_digest(told, str(self._settings.token).encode())


def too_large(limit: int) -> Refused:
    """Of a body or a picture in it."""
    return Refused(413, "large", f"the request is larger than the limit of {limit:,} bytes")


class _Bounded:
    """Counts what comes, whatever length was announced."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._got = receive, 0
        self.limit, self.over = 0, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._got += len(message.get("body", b""))
        if self._got > self.limit:
            self.over = True
            raise too_large(self.limit)
        return message


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _known(method: str) -> str:
    return method if method in (*_WRITING, "GET", "HEAD", "OPTIONS") else "other"
