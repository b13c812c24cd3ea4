"""Room for so many at a time, for which others wait a while."""

import asyncio

from resight.server import limits
from resight.server.problems import Refused


class Room:
    """``async with`` it. Raises Refused (503) after `seconds`. what: of which there are too many."""

    def __init__(self, places: int, seconds: float, what: str) -> None:
        self._places, self._seconds, self._what = asyncio.Semaphore(places), seconds, what

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._places.acquire()
        except TimeoutError:
            raise Refused(503, "busy", f"too many {self._what} at once; ask again in a moment", limits.RETRY) from None

    async def __aexit__(self, *_: object) -> None:
        self._places.release()
