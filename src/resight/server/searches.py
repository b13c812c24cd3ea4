"""Searches of many users over one loaded recipe: queued within bounds, shared, told step by step, cancelled in time.

Queries are described one after another by a thread of its own, since networks are not shared by threads, and ranked
and verified by others, so that a long verification holds up no other search.
"""

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from resight.errors import ResightError
from resight.search.collection import Collection
from resight.search.examples import DescribedExample, Example
from resight.search.searcher import Checked, Filtered, Heard
from resight.server import limits
from resight.server.metrics import Metrics
from resight.server.problems import Refused, refusal
from resight.server.readers import Readers
from resight.server.requests import Requests, canonical
from resight.server.schemas import ErrorFacts, SearchRequest, SearchState
from resight.server.search import Ended, Search
from resight.server.settings import Settings
from resight.server.uploads import Uploads, opaque
from resight.server.values import example_of, first_results, where_of
from resight.store.where import Where

_TOGETHER = 8  # searches whose pictures go through a network in one go, at most; without one, none waits for others
_KEPT = 64  # finished searches; the request of an older one is read from the disk and carried out again


class Searches:
    """All searches of a service. folder: where their requests are kept, so that links to them stay good."""

    def __init__(self, folder: Path, readers: Readers, uploads: Uploads, settings: Settings, metrics: Metrics) -> None:
        self._requests, self._readers, self._uploads = Requests(folder), readers, uploads
        self._settings, self._metrics = settings, metrics
        self._together = 1 if readers.live.recipe.global_ is None else _TOGETHER
        self._describing = ThreadPoolExecutor(1, "describe")
        self._ranking = ThreadPoolExecutor(settings.workers, "rank")
        self._lock = threading.Lock()
        self._undescribed: deque[Search] = deque()
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
            example_of(example, self._uploads)
        _, version = self._readers.searchable()
        key = f"{version} {canonical(request)}"
        with self._lock:
            known = self._known.get(self._shared.get(key, ""))
            if known is not None and not known.cancelled and known.state not in ("failed", "cancelled"):
                self._known.move_to_end(known.id)
                known.holders += 1
                return known
            search = self._admit(f"s{opaque(secrets.token_bytes(16))}", request)
            self._shared[key] = search.id
            try:
                self._requests.keep(search.id, request)
            except OSError as error:
                full = Refused(507, "full", f"the search cannot be kept: {error.strerror or error}")
                self._fail(search, full)  # or it would hold its place in the queue
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
            search.cancelled = search.holders <= 0

    def close(self) -> None:
        """End all searches."""
        with self._lock:
            for search in self._known.values():
                search.cancelled = True
        self._describing.shutdown(cancel_futures=True)
        self._ranking.shutdown(cancel_futures=True)

    def _admit(self, name: str, request: SearchRequest) -> Search:
        """Enter a search that is yet to be submitted; with the lock held."""
        open_ = sum(not search.ended for search in self._known.values())
        if open_ >= self._settings.waiting + self._settings.workers:
            raise Refused(503, "busy", "too many searches wait already; ask again in a moment", limits.RETRY)
        now = time.monotonic()
        search = Search(name, request, now, now + self._settings.timeout)
        self._known[name] = search
        ended = [other.id for other in self._known.values() if other.ended]
        for old in ended[: max(0, len(ended) - _KEPT)]:
            del self._known[old]
        self._shared = {key: kept for key, kept in self._shared.items() if kept in self._known}
        return search

    def _submit(self, search: Search) -> None:
        self._undescribed.append(search)
        self._describing.submit(self._describe_waiting)

    def _describe_waiting(self) -> None:
        """Describe those that wait, a few together; the calls for those that went along then find nothing to do."""
        together: list[tuple[Search, list[Example]]] = []
        while len(together) < self._together and self._undescribed:
            search = self._undescribed.popleft()
            with self._guarded(search):
                search.check()
                search.state, search.waited = "running", time.monotonic() - search.began
                together.append((search, [example_of(asked, self._uploads) for asked in search.request.examples]))
        if not together:
            return
        began = time.perf_counter()
        try:
            collection, _ = self._readers.searchable()
            answers = collection.describe_together([examples for _, examples in together])
        except Exception as error:
            for search, _ in together:
                with self._guarded(search):
                    raise error
            return
        took = time.perf_counter() - began
        for (search, _), described in zip(together, answers, strict=True):
            with self._guarded(search):
                if isinstance(described, ResightError):
                    raise described
                self._ranking.submit(self._rank, search, collection, described, where_of(search.request), took)

    def _rank(
        self,
        search: Search,
        collection: Collection,
        described: list[DescribedExample],
        where: Where | None,
        took: float,
    ) -> None:
        with self._guarded(search):
            search.check()
            search.ranking, search.timing = collection.rank_described(
                described,
                top=search.request.top,
                where=where,
                exact=search.request.exact,
                described=took,
                heard=self._heard(search, collection),
            )
            search.check()
            search.state = "done"
            self._metrics.searched(search.timing, search.waited)
            search.feed.tell("done", {"search": search.id, "accepted": search.ranking.accepted}, last=True)

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
            search.state = "cancelled"
            search.feed.tell("failed", {"code": "cancelled", "message": "the search was cancelled"}, last=True)
        except Refused as refused:
            self._fail(search, refused)
        except ResightError as error:
            self._fail(search, refusal(error))
        except Exception:
            self._metrics.log.exception("a search failed")
            self._fail(search, Refused(500, "defect", "the search failed by a defect of resight; its log says more"))

    def _fail(self, search: Search, refused: Refused) -> None:
        search.error = ErrorFacts(code=refused.code, message=refused.message)
        search.state = "failed"
        search.feed.tell("failed", search.error.model_dump(), last=True)

    def _count(self, state: SearchState) -> int:
        with self._lock:
            return sum(search.state == state for search in self._known.values())

    def _pictures(self) -> set[str]:
        """Ids of the uploads that a search has yet to read."""
        with self._lock:
            waiting = [search.request.examples for search in self._known.values() if not search.ended]
        return {example.image for examples in waiting for example in examples if isinstance(example.image, str)}
