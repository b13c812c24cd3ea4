"""What every request passes: who may ask, how much they may send, and what every answer forbids the browser.

The service fetches nothing, and says nothing to pages of other sites: no CORS header is ever sent. On loopback, where
no token is demanded, the Host header tells requests that a name of an attacker's, bound to 127.0.0.1 (DNS rebinding),
has led here; Origin and Sec-Fetch-Site tell those of other sites' pages.
"""

import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resight.server import limits
from resight.server.body import Body, too_large
from resight.server.connections import CROWDED
from resight.server.metrics import Metrics, in_a_line
from resight.server.problems import Refused
from resight.server.replies import refused_reply
from resight.server.settings import MIB, Settings, is_loopback
from resight.server.tokens import Tokens

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
_LAST = (400, 503)  # of those refused here, after which a connection serves for no other
_GONE = 499  # as other servers count a request whose client went before it was all there


class Guard:
    """ASGI middleware, outside of all else."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, pictures: int) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._largest = pictures * settings.upload_bytes + _FORM
        self._tokens = None if settings.token is None else Tokens(settings.token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # no web sockets are spoken
            return None
        began, body, answer = time.perf_counter(), Body(receive), _Answer(scope, send)
        try:
            await self._answered(scope, body, answer)
        except ClientDisconnect:
            if not body.gone:
                raise
        except Exception:
            if not answer.whole:
                raise
            self._metrics.log.exception("a request failed")  # and was answered, so its connection is still good
        finally:
            took = time.perf_counter() - began
            status = answer.status or (_GONE if body.gone else 500)
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.answered(_known(scope["method"]), route, status, took)
            self._metrics.log.info("%s %s %d %.3f s", _known(scope["method"]), in_a_line(scope["path"]), status, took)

    async def _answered(self, scope: Scope, body: Body, answer: "_Answer") -> None:
        answer.of_no_use = lambda: body.gone or body.refused is not None  # whatever the application makes of it
        try:
            body.limit = self._admitted(scope)
            await self._app(scope, body, answer)
            refused = body.refused
        except Refused as error:
            refused = error
        if refused is None or answer.status:
            return
        reply = refused_reply(refused)
        if body.refused is not None or refused.status in _LAST:
            reply.headers["Connection"] = "close"
        answer.of_no_use = lambda: False
        await reply(scope, body, answer)

    def _admitted(self, scope: Scope) -> int:
        """Bytes that the request may have; Refused where it is not one of ours."""
        headers, method = Headers(scope=scope), scope["method"]
        if scope.get("state", {}).get(CROWDED):
            raise Refused(503, "busy", "too many connections are open; ask again in a moment", limits.RETRY)
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
        if self._tokens is not None and not self._is_open(scope):
            self._tokens.check(_bearer(headers), self._address(scope, headers))
        limit = self._largest if scope["path"] in _PICTURES else _JSON
        length = headers.get("content-length")
        if length is not None and "transfer-encoding" in headers:  # a proxy before us may go by the other of the two
            raise Refused(400, "http", "a body has a Content-Length or a Transfer-Encoding, not both")
        if length is not None and (not length.isdecimal() or len(length) > 18 or int(length) > limit):
            raise too_large(limit)
        return limit

    @staticmethod
    def _is_open(scope: Scope) -> bool:
        """The page itself, which knows the token only once it is loaded, and whether the service is up."""
        return scope["method"] in ("GET", "HEAD") and (scope["path"] in _OPEN or scope["path"].startswith("/static/"))

    def _address(self, scope: Scope, headers: Headers) -> str:
        """Of the client; where a proxy of this machine stands before us, as that says."""
        peer = (scope.get("client") or ("",))[0]
        if self._settings.public is not None and is_loopback(peer):
            # Of all such headers, since a proxy may add its own behind the client's.
            return ",".join(headers.getlist("x-forwarded-for") or [peer]).rpartition(",")[2].strip()
        return str(peer)


def _bearer(headers: Headers) -> str | None:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


class _Answer:
    """What goes out, with what it forbids the browser. of_no_use: whether one that has not begun is to be dropped."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self.status, self.whole = 0, False
        self.of_no_use: Callable[[], bool] = lambda: False

    async def __call__(self, message: Message) -> None:
        if not self.status and self.of_no_use():
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self._scope["path"].startswith("/v1/"):
                headers.setdefault("Cache-Control", "no-store")
        await self._send(message)
        if message["type"] == "http.response.body":
            self.whole = not message.get("more_body", False)


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _known(method: str) -> str:
    return method if method in (*_WRITING, "GET", "HEAD", "OPTIONS") else "other"
