"""What a figure was measured under, and what measuring it took."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """What a figure depends on besides the recipe's stages; without it the figure says nothing.

    revision: hash of the ground truth. selection: the queries kept of it, "" for all.
    database, distractors: images ranked, of which distractors were added.
    queries, unanswerable: how many were asked, and how many of them have no positive and are outside every
        mean of AP.
    boxed: queries asked about a box of their image. stored: leave-one-out queries whose stored description
        was used.
    average_precision: kind (see `metrics`), cut-off included.
    fitted_on: learned part of the recipe or collection → what it was fitted on.
    fitted_share: learned part → share, 0 … 1, of the database without distractors among the photos it was fitted on,
        where these are known.
    versions: of resight, Python and the libraries that decide figures.
    """

    name: str
    revision: str
    text: str
    selection: str
    database: int
    distractors: int
    queries: int
    unanswerable: int
    leave_one_out: bool
    boxed: int
    stored: int
    average_precision: str
    ties: str
    junk: str
    recipe: str
    fingerprint: str
    fitted_on: Mapping[str, str]
    fitted_share: Mapping[str, float]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Spread:
    """Median and 95th percentile, milliseconds a query."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Costs:
    """Time and memory on this machine.

    index_seconds: wall clock to index what was not indexed yet; indexed_now: how many images that was.
    describe, filter, verify, total: time of the stages of a search; describe only of queries that were
        described.
    comparisons: descriptor comparisons of local matching, mean a query.
    bytes_on_disk: the collection's.
    peak_memory, peak_worker_memory: bytes, this process since it began and its largest finished child;
        None where the platform does not say.
    """

    index_seconds: float
    indexed_now: int
    describe: Spread | None
    filter: Spread
    verify: Spread
    total: Spread
    comparisons: float
    bytes_on_disk: int
    peak_memory: int | None
    peak_worker_memory: int | None
    cpus: int
    platform: str

    @property
    def milliseconds_per_image(self) -> float | None:
        """Indexing time, None where everything was indexed before."""
        return 1000 * self.index_seconds / self.indexed_now if self.indexed_now else None
