"""The service's token: compared in constant time, and guessed at only so often."""

import hashlib
import ipaddress
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from resight.server.problems import Refused

GUESSES, SECONDS = 10, 60.0
"""Different wrong tokens that may come from an address within so many seconds."""

_ADDRESSES = 4096  # that are remembered; each costs a guesser GUESSES of his own


@dataclass
class _Wrong:
    began: float
    marks: set[bytes] = field(default_factory=set)


class Tokens:
    """Says whether a token is the right one.

    Above the limit, no token of that address is looked at until the time is over, the right one neither: an answer to
    it would be an answer to the guesser. A wrong token that comes again is no further guess, so a page with an old
    one locks nobody out. now: seconds of a clock.
    """

    def __init__(self, token: str, now: Callable[[], float] = time.monotonic) -> None:
        self._key, self._now = secrets.token_bytes(32), now
        self._right = self._mark(token)
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()

    def check(self, given: str | None, address: str) -> None:
        """Refused (401) where the token is missing or wrong, (429) where too many wrong ones came from there."""
        missing = Refused(401, "token", "this service needs its token: Authorization: Bearer TOKEN")
        if given is None:
            raise missing
        mark, who, now = self._mark(given), _network(address), self._now()
        wrong = self._wrong.get(who)
        if wrong is not None and now - wrong.began >= SECONDS:
            del self._wrong[who]
            wrong = None
        if wrong is not None and mark in wrong.marks:
            raise missing
        if wrong is not None and len(wrong.marks) >= GUESSES:
            left = math.ceil(wrong.began + SECONDS - now)
            raise Refused(429, "token", "too many wrong tokens came from this address; wait a minute", left)
        if secrets.compare_digest(mark, self._right):  # of equal length, whatever was given
            return
        self._wrong.setdefault(who, _Wrong(now)).marks.add(mark)
        self._wrong.move_to_end(who)
        while len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)
        raise missing

    def _mark(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode("utf-8", "surrogateescape"), key=self._key).digest()


def _network(address: str) -> str:
    """What one client has to itself: an IPv4 address, or the 64 first bits of an IPv6 one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""  # of a proxy that says nothing we know: all of those together
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
