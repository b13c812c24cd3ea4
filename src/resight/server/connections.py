"""Connections that no client can hold for nothing: one that sends or takes too slowly is cut off.

uvicorn alone waits for ever for the head of a first request, for the rest of a body that is answered already, and for
a client to take its answer, which lies in memory meanwhile; so a few hundred idle sockets would shut all others out.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from resight.server import limits
from resight.server.problems import Refused
from resight.server.replies import refused_reply

CROWDED = "crowded"
"""In the ``state`` of a request's scope: whether its connection is one too many to be answered."""

_EVERY = 1.0  # seconds between two looks at a connection


class Connection(H11Protocol):
    """One connection, with a look at it from time to time."""

    _look: asyncio.TimerHandle | None = None
    _head: float | None = None  # since when a head has been coming
    _rest: float | None = None  # since when what comes is of no use any more
    _untaken: tuple[float, int] | None = None  # since when something waits to be taken, and how much it was then

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """As ``asyncio.Protocol``."""
        super().connection_made(transport)
        if len(self.connections) > limits.UNHEARD:
            transport.abort()
            return
        self.app_state: dict[str, Any] = {**self.app_state, CROWDED: len(self.connections) > limits.AT_ONCE}
        self._head = self.loop.time()
        self._look = self.loop.call_later(_EVERY, self._look_at_it)

    def connection_lost(self, exc: Exception | None) -> None:
        """As ``asyncio.Protocol``."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As ``asyncio.Protocol``."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head = None
        elif self._head is None and self.conn.trailing_data[0]:
            self._head = self.loop.time()

    def _unsupported_upgrade_warning(self) -> None:
        """Web sockets are not spoken, and who asks for one writes no line of the log."""

    def _look_at_it(self) -> None:
        self._look = self.loop.call_later(_EVERY, self._look_at_it)
        now = self.loop.time()
        if self._is_not_taken(now):
            self.transport.abort()
        elif not self.transport.is_closing():
            if self._head is not None and now - self._head > limits.HEAD:
                self._refuse_head()
            elif self._is_of_no_use(now):
                self.transport.close()

    def _is_not_taken(self, now: float) -> bool:
        """Whether an answer is taken too slowly. Where there is more to take than before, enough had been taken."""
        size = self.transport.get_write_buffer_size()
        if size == 0 or self._untaken is None or size > self._untaken[1]:
            self._untaken = (now, size) if size else None
            return False
        since, was = self._untaken
        return now - since > limits.PATIENCE + (was - size) / limits.RATE

    def _is_of_no_use(self, now: float) -> bool:
        answered = self.cycle is not None and self.cycle.response_complete
        if not answered or self.conn.their_state is not h11.SEND_BODY:
            self._rest = None
        elif self._rest is None:
            self._rest = now
        return self._rest is not None and now - self._rest > limits.LINGER

    def _refuse_head(self) -> None:
        """408 where some of it came; of a connection that was only opened, nothing."""
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            reply = refused_reply(Refused(408, "slow", f"no whole head of a request came in {limits.HEAD:.0f} seconds"))
            headers = [*reply.raw_headers, (b"connection", b"close")]
            start = h11.Response(status_code=408, headers=headers, reason=b"Request Timeout")
            for event in (start, h11.Data(data=bytes(reply.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
