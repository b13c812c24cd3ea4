"""One search, from its request to its end."""

import threading
from dataclasses import dataclass, field
from typing import Any

from resight.search.collection import Timing
from resight.search.ranking import Ranking
from resight.server.feed import Feed
from resight.server.problems import Refused
from resight.server.schemas import ErrorFacts, SearchRequest, SearchState


class Ended(Exception):
    """Raised inside a search that is no longer wanted."""


@dataclass(eq=False)
class Search:
    """One search. began, until: when, by the monotonic clock, it was asked for and has had its time. waited: seconds.
    ranking and timing are there when it is done; the error and its HTTP status, when it failed.

    It ends once, whatever thread says so first: those that still work for it find out by ``check``.
    """

    id: str
    request: SearchRequest
    began: float
    feed: Feed = field(default_factory=Feed)
    state: SearchState = "waiting"
    holders: int = 1
    until: float = 0.0
    waited: float = 0.0
    ranking: Ranking | None = None
    timing: Timing | None = None
    error: ErrorFacts | None = None
    status: int = 200
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self) -> bool:
        """It runs from now on; False where it has ended already."""
        with self._lock:
            if not self.ended:
                self.state = "running"
            return not self.ended

    def check(self) -> None:
        """Raises Ended where it has ended."""
        if self.ended:
            raise Ended

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed", "cancelled")

    def succeed(self, ranking: Ranking, timing: Timing) -> None:
        """It is done."""
        self._end("done", {"search": self.id, "accepted": ranking.accepted}, ranking=ranking, timing=timing)

    def fail(self, refused: Refused) -> None:
        """It failed, or has had its time."""
        error = ErrorFacts(code=refused.code, message=refused.message)
        self._end("failed", error.model_dump(), error=error, status=refused.status)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._end("cancelled", {"code": "cancelled", "message": "the search was cancelled"})

    def _end(self, state: SearchState, told: dict[str, Any], **facts: Any) -> None:
        with self._lock:
            if self.ended:
                return
            for name, value in facts.items():  # before its state, by which others know that they are there
                setattr(self, name, value)
            self.state = state
        self.feed.tell("done" if state == "done" else "failed", told, last=True)
