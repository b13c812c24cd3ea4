"""Events that threads tell and any number of requests follow, from the first or from where a connection broke."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any


@dataclass(frozen=True)
class Event:
    """number: from 1 within its feed. data: ready for JSON. passing: whether the next such takes its place."""

    number: int
    name: str
    data: Any
    passing: bool = False


class Feed:
    """Events in order, kept until the feed itself goes, but for those that pass. It ends once."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._told = 0
        self._ended = False
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def tell(self, name: str, data: Any, *, last: bool = False, passing: bool = False) -> None:
        """From any thread. What is told after the last is dropped. passing: the next such takes its place."""
        with self._lock:
            if self._ended:
                return
            self._told += 1
            if passing and self._events and self._events[-1].passing:
                self._events.pop()
            self._events.append(Event(self._told, name, data, passing))
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
                    fresh, ended = self._above(after), self._ended
                for event in fresh:
                    yield event
                    after = event.number
                if ended:
                    return
                try:
                    await asyncio.wait_for(awake.wait(), beat)
                except TimeoutError:
                    yield None
        finally:
            with self._lock:
                self._waiting.discard(mark)

    def _above(self, number: int) -> list[Event]:
        found = list(takewhile(lambda event: event.number > number, reversed(self._events)))
        return found[::-1]

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
