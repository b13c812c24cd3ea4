"""Events that threads tell and any number of requests follow, from the first or from where a connection broke."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """number: from 1 within its feed. data: ready for JSON."""

    number: int
    name: str
    data: Any


class Feed:
    """Events in order, kept until the feed itself goes. It ends once."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._ended = False
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def tell(self, name: str, data: Any, *, last: bool = False) -> None:
        """From any thread. What is told after the last is dropped."""
        with self._lock:
            if self._ended:
                return
            self._events.append(Event(len(self._events) + 1, name, data))
            self._ended = last
            waiting = list(self._waiting)
        for loop, awake in waiting:
            with suppress(RuntimeError):  # that loop has just been closed
                loop.call_soon_threadsafe(awake.set)

    async def follow(self, after: int = 0, beat: float = 15.0) -> AsyncIterator[Event | None]:
        """Events above number `after` as they come, until the last; None when there was none for `beat` seconds."""
        awake = asyncio.Event()
        mark = asyncio.get_running_loop(), awake
        with self._lock:
            self._waiting.add(mark)
        try:
            while True:
                awake.clear()
                with self._lock:
                    fresh, ended = self._events[after:], self._ended
                for event in fresh:
                    yield event
                after += len(fresh)
                if ended:
                    return
                try:
                    await asyncio.wait_for(awake.wait(), beat)
                except TimeoutError:
                    yield None
        finally:
            with self._lock:
                self._waiting.discard(mark)

    async def end(self, seconds: float) -> bool:
        """Wait until the last was told, at most so long; whether it was."""

        async def all_of_it() -> None:
            async for _ in self.follow():
                pass

        try:
            await asyncio.wait_for(all_of_it(), seconds)
        except TimeoutError:
            return False
        return True
