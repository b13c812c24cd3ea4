"""The body of a request, which may be only so large and so slow."""

import asyncio
import time

from starlette.types import Message, Receive

from resight.server import limits
from resight.server.problems import Refused


class Body:
    """A body as it comes. Raises Refused (413) above its limit, whatever length was announced, and (408) where slow.

    refused: what was raised, whatever the application makes of it. gone: whether the client went before its end.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive, self._got, self._waited, self._ended = receive, 0, 0.0, False
        self.limit, self.gone = 0, False
        self.refused: Refused | None = None

    async def __call__(self) -> Message:
        if self._ended:  # what comes now is that the client goes
            return await self._receive()
        began = time.perf_counter()
        try:
            async with asyncio.timeout(limits.PATIENCE + self._got / limits.RATE - self._waited):
                message = await self._receive()
        except TimeoutError:
            self.refused = Refused(408, "slow", "the body of the request came too slowly")
            raise self.refused from None
        self._waited += time.perf_counter() - began
        self._got += len(message.get("body", b""))
        if self._got > self.limit:
            self.refused = too_large(self.limit)
            raise self.refused
        self.gone = message["type"] == "http.disconnect"
        self._ended = self.gone or not message.get("more_body", False)
        return message


def too_large(limit: int) -> Refused:
    """Of a body or a picture in it."""
    return Refused(413, "large", f"the request is larger than the limit of {limit:,} bytes")
