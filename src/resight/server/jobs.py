"""Work on the collection that outlasts a request: adding, removing, looking for duplicates. One at a time, in order."""

import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resight.errors import CollectionError, ResightError
from resight.search.collection import Collection, Progress
from resight.server import schemas
from resight.server.feed import Feed
from resight.server.metrics import Metrics
from resight.server.problems import Refused, refusal
from resight.server.readers import Readers
from resight.server.settings import Settings
from resight.server.uploads import opaque
from resight.store.duplicates import Decision
from resight.store.facts import Value

_KEPT, _WAITING = 100, 16
_EVERY = 0.2  # seconds between two events of progress


class _Cancelled(Exception):
    """Raised inside a job that is no longer wanted; what it has committed stays."""


@dataclass(eq=False)
class Work:
    """One job. facts: what the API says of it."""

    request: schemas.JobRequest
    facts: schemas.Job
    feed: Feed = field(default_factory=Feed)
    cancelled: bool = False
    told: float = 0.0

    def progress(self, progress: Progress) -> None:
        """Note how far it is; raises where it was cancelled."""
        if self.cancelled:
            raise _Cancelled
        before = self.facts.progress
        self.facts.progress = schemas.ProgressFacts(phase=progress.phase, done=progress.done, total=progress.total)
        now = time.monotonic()
        if now - self.told >= _EVERY or before is None or before.phase != progress.phase:
            self.told = now
            self.feed.tell("progress", self.facts.progress.model_dump(), passing=True)


class Jobs:
    """All jobs of a service. A writer holds the collection's lock only while it works."""

    def __init__(self, path: Path, readers: Readers, settings: Settings, metrics: Metrics) -> None:
        self._path, self._readers, self._settings, self._metrics = path, readers, settings, metrics
        self._worker = ThreadPoolExecutor(1, "job")
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Work] = OrderedDict()
        metrics.watch("resight_jobs_waiting", "Jobs that wait or run", self._open)

    def start(self, request: schemas.JobRequest) -> Work:
        """Enter a job. Raises Refused where the service may not do it, or has too much to do."""
        self.check_writable()
        if request.kind == "add":
            self._check_places(request.paths)
        name = f"j{opaque(secrets.token_bytes(16))}"
        facts = schemas.Job(job=name, kind=request.kind, state="waiting", progress=None, result=None, error=None)
        work = Work(request, facts)
        with self._lock:
            if sum(not _ended(known) for known in self._known.values()) >= _WAITING:
                raise Refused(503, "busy", "too many jobs wait already; ask again later", 30)
            self._known[name] = work
            for old in [known.facts.job for known in self._known.values() if _ended(known)][:-_KEPT]:
                del self._known[old]
        self._worker.submit(self._run, work)
        return work

    def check_writable(self) -> None:
        """Refused (403) where the service only reads."""
        if not self._settings.write:
            raise Refused(403, "readonly", "this service only reads; start it with --write to change the collection")

    def set_metadata(self, facts: Mapping[int, Mapping[str, Value | None]]) -> None:
        """Give images facts, as ``Collection.set_metadata``."""
        self.check_writable()
        try:
            with Collection.open(self._path, write=True) as collection:
                collection.set_metadata(facts)
        except ValueError as error:
            raise Refused(422, "value", str(error)) from error

    def decide(self, images: Sequence[int], decision: Decision | None) -> None:
        """Remember a decision, as ``Collection.decide_duplicates``."""
        self.check_writable()
        with Collection.open(self._path, write=True) as collection:
            collection.decide_duplicates(images, decision)

    def get(self, name: str) -> Work:
        """A job by its id; Refused (404) where there is none."""
        with self._lock:
            work = self._known.get(name)
        if work is None:
            raise Refused(404, "unknown", "there is no such job")
        return work

    def all(self) -> list[schemas.Job]:
        """The newest first."""
        with self._lock:
            return [work.facts for work in reversed(self._known.values())]

    def cancel(self, name: str) -> None:
        """End a job at its next step; Refused (404) where there is none."""
        self.get(name).cancelled = True

    def close(self) -> None:
        """End all jobs; what they have committed stays."""
        with self._lock:
            for work in self._known.values():
                work.cancelled = True
        self._worker.shutdown(cancel_futures=True)

    def _check_places(self, paths: list[str]) -> None:
        """Only what really lies in a folder of --photos, with every link followed; no pattern, no list of paths."""
        roots = [root.resolve() for root in self._settings.photos]
        if not paths:
            raise Refused(422, "query", "say which folders or files to add: paths")
        for path in paths:
            there = _existing(path) if path.startswith("/") else None
            if there is None or not any(there.is_relative_to(root) for root in roots):
                raise Refused(403, "place", f"{path!r}: photos are added only from folders that --photos names")

    def _run(self, work: Work) -> None:
        facts = work.facts
        try:
            if work.cancelled:
                raise _Cancelled
            facts.state = "running"
            facts.result = _KINDS[work.request.kind](self._path, work)
            with suppress(CollectionError):  # what was done is done; /health says that it cannot be searched yet
                self._readers.searchable(now=True)
        except _Cancelled:
            self._end(work, "cancelled", schemas.ErrorFacts(code="cancelled", message="the job was cancelled"))
        except ResightError as error:
            told = refusal(error)
            self._end(work, "failed", schemas.ErrorFacts(code=told.code, message=told.message))
        except Exception:
            self._metrics.log.exception("a job failed")
            message = "the job failed by a defect of resight; the service's log says more"
            self._end(work, "failed", schemas.ErrorFacts(code="defect", message=message))
        else:
            facts.state = "done"
            work.feed.tell("done", facts.result, last=True)

    @staticmethod
    def _end(work: Work, state: schemas.JobState, error: schemas.ErrorFacts) -> None:
        work.facts.state, work.facts.error = state, error
        work.feed.tell("failed", error.model_dump(), last=True)

    def _open(self) -> int:
        with self._lock:
            return sum(not _ended(work) for work in self._known.values())


def _existing(path: str) -> Path | None:
    """Where a path leads; None where nothing is, or can be, there."""
    try:
        return Path(path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # too long, no text that a path can have, a circle of links
        return None


def _ended(work: Work) -> bool:
    return work.facts.state in ("done", "failed", "cancelled")


def _readers() -> int:
    """Processes that read photos: half of the cores stay with those who search."""
    return max(1, (os.cpu_count() or 1) // 2)


def _add(path: Path, work: Work) -> dict[str, Any]:
    with Collection.open(path, write=True) as collection:
        return asdict(collection.add(work.request.paths, workers=_readers(), progress=work.progress))


def _remove(path: Path, work: Work) -> dict[str, Any]:
    selectors: list[int | str] = [*work.request.images, *work.request.paths]
    with Collection.open(path, write=True) as collection:
        return {"removed": collection.remove(selectors, missing=work.request.missing)}


def _duplicates(path: Path, work: Work) -> dict[str, Any]:
    with Collection.open(path, write=True) as collection:
        compared = collection.find_duplicates(progress=work.progress)
        return {"compared": compared, "clusters": len(collection.duplicates())}


_KINDS: dict[str, Callable[[Path, Work], dict[str, Any]]] = {
    "add": _add,
    "remove": _remove,
    "duplicates": _duplicates,
}
