"""What searches go through before they are ranked: several threads read their pictures, one describes them.

Networks are not shared by threads, so the pictures that wait go through them together. Of each search one picture is
taken in turn: one with many holds up no other for longer than a few pictures take.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

from resight.search.collection import Collection
from resight.search.examples import DescribedExample, ReadExample
from resight.server.search import Search
from resight.server.uploads import Uploads
from resight.server.values import example_of

TOGETHER = 8
"""Pictures that go through a network in one go, at most, each view of a query counted."""
_READERS = 4  # threads that read, of which a file that takes long holds one


@dataclass(eq=False)
class Asked:
    """A search on its way. waiting, described: examples that are read, and done, with their places in the request.

    searchable: gives the collection, the same for all its examples. read: how many are. spent: seconds for reading and
    describing. since: when what is being described began. paused: it reads on only when one that waits is taken.
    """

    search: Search
    searchable: Callable[[], Collection]
    waiting: deque[tuple[int, ReadExample]] = field(default_factory=deque)
    described: dict[int, DescribedExample] = field(default_factory=dict)
    read: int = 0
    spent: float = 0.0
    since: float = 0.0
    paused: bool = False

    @cached_property
    def collection(self) -> Collection:
        """Taken up when the first of its pictures is read."""
        return self.searchable()

    @property
    def ready(self) -> bool:
        """Whether all is described."""
        return len(self.described) == len(self.search.request.examples)

    @property
    def examples(self) -> list[DescribedExample]:
        """In their order, once all are described."""
        return [self.described[place] for place in range(len(self.described))]


class Describing:
    """Of all searches of a service.

    guarded: in which a search's work is done; it ends the search where that fails. ready: is told, in one of the
    threads, when all examples of a search are described.
    """

    def __init__(
        self,
        uploads: Uploads,
        guarded: Callable[[Search], AbstractContextManager[None]],
        ready: Callable[[Asked], None],
    ) -> None:
        self._uploads, self._guarded, self._done = uploads, guarded, ready
        self._reading = ThreadPoolExecutor(_READERS, "read")
        self._describing = ThreadPoolExecutor(1, "describe")
        self._lock = threading.Lock()
        self._undescribed: deque[Asked] = deque()
        self._closed = False

    def submit(self, search: Search, searchable: Callable[[], Collection]) -> None:
        """Read and describe what a search asks for. searchable: gives the collection; it may take its time."""
        self._read_on(Asked(search, searchable))

    def close(self) -> None:
        """Wait for what is being read and described; of searches that have ended that is little."""
        with self._lock:
            self._closed = True
        self._reading.shutdown(cancel_futures=True)
        self._describing.shutdown(cancel_futures=True)

    def _read_on(self, asked: Asked) -> None:
        with self._lock:
            if not self._closed:
                self._reading.submit(self._read, asked)

    def _read(self, asked: Asked) -> None:
        """The next picture of a search."""
        with self._guarded(asked.search):
            asked.search.check()
            began, place = time.perf_counter(), asked.read
            example = example_of(asked.search.request.examples[place], self._uploads)
            found = asked.collection.read_example(example, place + 1)
            with self._lock:
                asked.spent += time.perf_counter() - began
                asked.read += 1
                if isinstance(found, DescribedExample):
                    asked.described[place] = found
                else:
                    if not asked.waiting:
                        self._undescribed.append(asked)
                    asked.waiting.append((place, found))
                more = asked.read < len(asked.search.request.examples)
                full = sum(len(one.waiting) for one in self._undescribed) >= TOGETHER
                asked.paused = paused = more and full and bool(asked.waiting)
                ready = asked.ready
            if isinstance(found, ReadExample):
                self._describing.submit(self._describe_waiting)
            if ready:
                self._done(asked)
            if more and not paused:
                self._read_on(asked)

    def _describe_waiting(self) -> None:
        """Describe pictures that wait; the calls for those that went along then find nothing to do."""
        with self._lock:
            taken = self._take()
            resumed = {asked for asked, _, _ in taken if asked.paused}
            for asked in resumed:
                asked.paused = False
        for asked in resumed:
            self._read_on(asked)
        if not taken:
            return
        found = described_each(taken[0][0].collection, [example for _, _, example in taken])
        for (asked, place, _), described in zip(taken, found, strict=True):
            with self._guarded(asked.search):
                if isinstance(described, Exception):
                    raise described
                with self._lock:
                    now = time.perf_counter()
                    asked.spent, asked.since = asked.spent + now - asked.since, now
                    asked.described[place] = described
                    ready = asked.ready
                if ready:
                    self._done(asked)

    def _take(self) -> list[tuple[Asked, int, ReadExample]]:
        """Of each search in turn one of the pictures that wait, of one state of the collection; with the lock held."""
        taken: list[tuple[Asked, int, ReadExample]] = []
        began = time.perf_counter()
        while self._undescribed and (not taken or len(taken) < _together(taken[0][0].collection)):
            asked = self._undescribed[0]
            if taken and asked.collection is not taken[0][0].collection:
                break
            self._undescribed.popleft()
            if not asked.search.begin():
                asked.waiting.clear()
                continue
            asked.since = began
            taken.append((asked, *asked.waiting.popleft()))
            if asked.waiting:
                self._undescribed.append(asked)
        return taken


def described_each(collection: Collection, read: Sequence[ReadExample]) -> Iterator[DescribedExample | Exception]:
    """Examples of several queries described together; in the place of one that cannot be, why.

    Where that fails it is not known by which of them, and those that are left are described one by one.
    """
    done = 0
    try:
        for described in collection.describe_each(read):
            yield described
            done += 1
    except Exception as error:
        if len(read) == 1:
            yield error
            return
        for example in read[done:]:
            yield next(described_each(collection, [example]))


def _together(collection: Collection) -> int:
    """Pictures that are described in one go; without a network none waits for others."""
    if collection.recipe.global_ is None:
        return 1
    return max(1, TOGETHER // (1 if collection.query is None else collection.query.views))
