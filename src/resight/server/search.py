"""One search, from its request to its end."""

import time
from dataclasses import dataclass, field

from resight.search.collection import Timing
from resight.search.ranking import Ranking
from resight.server.feed import Feed
from resight.server.problems import Refused
from resight.server.schemas import ErrorFacts, SearchRequest, SearchState


class Ended(Exception):
    """Raised inside a search that is no longer wanted."""


@dataclass(eq=False)
class Search:
    """One search. ranking and timing are there when it is done."""

    id: str
    request: SearchRequest
    began: float
    deadline: float
    feed: Feed = field(default_factory=Feed)
    state: SearchState = "waiting"
    holders: int = 1
    cancelled: bool = False
    waited: float = 0.0
    ranking: Ranking | None = None
    timing: Timing | None = None
    error: ErrorFacts | None = None

    def check(self) -> None:
        """Raises where it was cancelled or has had its time."""
        if self.cancelled:
            raise Ended
        if time.monotonic() > self.deadline:
            raise Refused(
                504, "timeout", "the search took longer than the service allows; ask for a part of the images"
            )

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed", "cancelled")
