"""Searches of many users over one loaded recipe: queued within bounds, shared, told step by step, cancelled in time.

``Describing`` reads and describes queries; threads of their own rank and verify them, so that a long verification holds
up no other search.
"""

import queue
import secrets
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from resight.errors import ResightError
from resight.search.adapted import check_adapter
from resight.search.collection import Collection
from resight.search.searcher import Checked, Filtered, Heard
from resight.server import limits
from resight.server.describing import Asked, Describing
from resight.server.metrics import Metrics
from resight.server.problems import Refused, refusal
from resight.server.readers import Readers
from resight.server.requests import Requests, canonical
from resight.server.schemas import SearchRequest, SearchState
from resight.server.search import Ended, Search
from resight.server.settings import Settings
from resight.server.uploads import Uploads, opaque
from resight.server.values import check_example, first_results, where_of

_KEPT = 64  # finished searches; the request of an older one is read from the disk and carried out again


class Searches:
    """All searches of a service. folder: where their requests are kept, so that links to them stay good."""

    def __init__(self, folder: Path, readers: Readers, uploads: Uploads, settings: Settings, metrics: Metrics) -> None:
        self._requests, self._readers, self._uploads = Requests(folder), readers, uploads
        self._settings, self._metrics = settings, metrics
        self._describing = Describing(uploads, self._guarded, self._submit_ranking)
        self._ranking = ThreadPoolExecutor(settings.workers, "rank")
        self._lock = threading.Lock()
        self._due: queue.SimpleQueue[tuple[float, weakref.ref[Search]] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._clock = threading.Thread(target=self._end_late_ones, name="clock", daemon=True)
        self._clock.start()
        self._known: OrderedDict[str, Search] = OrderedDict()
        self._shared: dict[str, str] = {}
        uploads.in_use = self._pictures
        metrics.watch("resight_searches_waiting", "Searches that wait", lambda: self._count("waiting"))
        metrics.watch("resight_searches_running", "Searches that run", lambda: self._count("running"))

    def start(self, request: SearchRequest) -> Search:
        """A search of this request, a running or finished one where the collection has not changed since.

        Raises QueryError for examples or a condition that cannot be, and Refused where too many wait already.
        """
        where_of(request)
        for example in request.examples:
            check_example(example, self._uploads)
        collection, version = self._readers.searchable()
        if request.adapter is not None:
            check_adapter(collection.recipe, request.adapter)
        key = f"{version} {canonical(request)}"
        with self._lock:
            known = self._known.get(self._shared.get(key, ""))
            if known is not None and known.state not in ("failed", "cancelled"):
                self._known.move_to_end(known.id)
                known.holders += 1
                if not known.ended:
                    self._end_in_time(known)  # who comes to share it has as much time as any
                return known
            search = self._admit(f"s{opaque(secrets.token_bytes(16))}", request)
            self._shared[key] = search.id
            try:
                self._requests.keep(search.id, request)
            except OSError as error:
                full = Refused(507, "full", f"the search cannot be kept: {error.strerror or error}")
                search.fail(full)  # or it would hold its place in the queue
                raise full from error
        self._submit(search)
        return search

    def get(self, name: str) -> Search:
        """A search by its id, carried out again where only its request is kept; Refused (404) where there is none."""
        with self._lock:
            if (known := self._known.get(name)) is not None:
                return known
        request = self._requests.get(name)
        if request is None:
            raise Refused(404, "unknown", "there is no such search")
        with self._lock:
            if (known := self._known.get(name)) is not None:
                return known
            search = self._admit(name, request)
        self._submit(search)
        return search

    def cancel(self, name: str) -> None:
        """End a search, once all who asked for it have said so; Refused (404) where there is none."""
        with self._lock:
            search = self._known.get(name)
            if search is None:
                raise Refused(404, "unknown", "there is no such search")
            search.holders -= 1
            if search.holders <= 0:
                search.cancel()  # with the lock held, so that nobody comes to share it meanwhile

    def close(self) -> None:
        """End all searches."""
        with self._lock:
            known = list(self._known.values())
        for search in known:
            search.cancel()
        self._closing.set()
        self._due.put(None)
        self._clock.join()
        self._describing.close()
        self._ranking.shutdown(cancel_futures=True)

    def _admit(self, name: str, request: SearchRequest) -> Search:
        """Enter a search that is yet to be submitted; with the lock held."""
        open_ = sum(not search.ended for search in self._known.values())
        if open_ >= self._settings.waiting + self._settings.workers:
            raise Refused(503, "busy", "too many searches wait already; ask again in a moment", limits.RETRY)
        search = Search(name, request, time.monotonic())
        self._end_in_time(search)
        self._known[name] = search
        ended = [other.id for other in self._known.values() if other.ended]
        for old in ended[: max(0, len(ended) - _KEPT)]:
            del self._known[old]
        self._shared = {key: kept for key, kept in self._shared.items() if kept in self._known}
        return search

    def _submit(self, search: Search) -> None:
        self._describing.submit(search, lambda: self._readers.searchable()[0])

    def _end_in_time(self, search: Search) -> None:
        """It may take as long as any, from now on; with the lock held, so that what is due stays in order."""
        search.until = time.monotonic() + self._settings.timeout
        self._due.put((search.until, weakref.ref(search)))

    def _end_late_ones(self) -> None:
        """End searches at the end of their time, whatever they wait for or do; all have as much, so in their order."""
        while (due := self._due.get()) is not None:
            self._closing.wait(min(max(0.0, due[0] - time.monotonic()), threading.TIMEOUT_MAX))
            if (search := due[1]()) is not None and due[0] >= search.until:
                search.fail(_late())
            del search  # while the next is waited for, it would be kept with all its results

    def _submit_ranking(self, asked: Asked) -> None:
        self._ranking.submit(self._rank, asked.search, asked)

    def _rank(self, search: Search, asked: Asked) -> None:
        with self._guarded(search):
            if not search.begin():
                return
            search.waited = max(0.0, time.monotonic() - search.began - asked.spent)
            ranking, timing = asked.collection.rank_described(
                asked.examples,
                top=search.request.top,
                where=where_of(search.request),
                exact=search.request.exact,
                adapter=search.request.adapter,
                described=asked.spent,
                heard=self._heard(search, asked.collection),
            )
            search.check()
            self._metrics.searched(timing, search.waited)
            search.succeed(ranking, timing)

    def _heard(self, search: Search, collection: Collection) -> Heard:
        calibration = collection.recipe.calibration
        threshold = None if calibration is None else calibration.accept

        def heard(step: Filtered | Checked) -> None:
            search.check()
            if isinstance(step, Filtered):
                search.feed.tell("filtered", {"total": len(step.ids), "results": first_results(collection, step)})
            elif step.score is not None:
                search.feed.tell("verified", first_results(collection, step, threshold)[0])

        return heard

    @contextmanager
    def _guarded(self, search: Search) -> Iterator[None]:
        """Whatever ends a search, it ends, and is told."""
        try:
            yield
        except Ended:
            pass
        except Refused as refused:
            search.fail(refused)
        except ResightError as error:
            search.fail(refusal(error))
        except Exception:
            self._metrics.log.exception("a search failed")
            search.fail(Refused(500, "defect", "the search failed by a defect of resight; its log says more"))

    def _count(self, state: SearchState) -> int:
        with self._lock:
            return sum(search.state == state for search in self._known.values())

    def _pictures(self) -> set[str]:
        """Ids of the uploads that a search has yet to read."""
        with self._lock:
            waiting = [search.request.examples for search in self._known.values() if not search.ended]
        return {example.image for examples in waiting for example in examples if isinstance(example.image, str)}


def _late() -> Refused:
    return Refused(504, "timeout", "the search took longer than the service allows; ask for a part of the images")
