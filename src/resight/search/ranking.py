"""A ranking and the evidence for its entries: immutable values; re-ranking maps a Ranking to a Ranking."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resight.errors import QueryError
from resight.search.agreement import is_suspect


@dataclass(frozen=True, eq=False)
class Evidence:
    """Why one database image matches: the outcome of spatial verification.

    inliers: correspondences that agree with the homography.
    matches: tentative correspondences it was estimated from.
    homography: 3×3 float64, query pixels → result pixels (both upright originals), or None below the minimum.
    outline: 4×2 float32, where the homography puts the query box, or without one the part of the query that the
        inliers cover, in the result; clockwise from what was the top left. None where it crosses the horizon.
    box: (x1, y1, x2, y2), the outline's bounding box clipped to the result image, in its pixels.
    query_xy, result_xy: inliers×2 float32, the matched points in each image's pixels.
    others: further instances of the same thing in the image, where several were asked for; most inliers first, none
        with more than this one, each with no others of its own.
    example: which example of the query it is about, from 0; the query is its first.
    agreement: how far colours and shading agree where it lies, from 0 to 1; 1 also where they were not compared.
    """

    inliers: int
    matches: int
    homography: NDArray[np.float64] | None
    outline: NDArray[np.float32] | None
    box: tuple[float, float, float, float] | None
    query_xy: NDArray[np.float32]
    result_xy: NDArray[np.float32]
    others: tuple["Evidence", ...] = ()
    example: int = 0
    agreement: float = 1.0


@dataclass(frozen=True, eq=False)
class Ranking:
    """Database images, best first.

    ids: N int64 image ids, no id twice.
    scores: N float32, non-increasing; the calibrated probability of a true match where ``calibrated``, else the
        similarity of the filter.
    evidence: N entries, None where an image was not verified.
    threshold: entries with a score at or above it are accepted as matches; the rest is the tail that ``--all`` shows.
    place: the rank, from 1, in the filter's ranking of the match that stands first there; None where nothing is
        verified, no match found, or it is not known.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    evidence: tuple[Evidence | None, ...]
    threshold: float
    calibrated: bool
    place: int | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.scores.shape != (n,) or len(self.evidence) != n:
            raise ValueError(f"{n} ids, {len(self.scores)} scores and {len(self.evidence)} pieces of evidence")
        if np.any(np.diff(self.scores) > 0):
            raise ValueError("scores must not increase along a ranking")
        if len(np.unique(self.ids)) != n:
            raise ValueError("an image id appears twice in a ranking")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def accepted(self) -> int:
        """How many entries, from the front, are matches."""
        return int(np.count_nonzero(self.scores >= self.threshold))

    @property
    def suspect(self) -> bool:
        """Whether what was verified and the filter's ranking disagree, as of a query altered to mislead the filter."""
        return is_suspect(self.place)

    @property
    def remark(self) -> str | None:
        """What ``suspect`` means, in words; None where it is not so."""
        if not self.suspect:
            return None
        return (
            f"by the filter the first of the matches is only number {self.place}: a hard view, or a picture altered to "
            "mislead it"
        )

    def accepting(self, least: float) -> "Ranking":
        """The same, with ``least`` as the threshold. Where the filter has the first of other matches is not known.

        Raises QueryError for a probability that is none, or a similarity that is no number.
        """
        if self.calibrated and not 0 <= least <= 1:
            raise QueryError(f"least = {least:g}: a probability is from 0 to 1, as 0.9 for 90 %")
        if not np.isfinite(least):
            raise QueryError(f"least = {least:g}: give a number")
        return self if least == self.threshold else replace(self, threshold=least, place=None)

    def top(self, k: int) -> "Ranking":
        """The first k entries."""
        return self.take(range(len(self))[:k])

    def take(self, places: Sequence[int]) -> "Ranking":
        """The entries at some places, ascending."""
        rows = np.asarray(places, np.int64)
        evidence = tuple(self.evidence[i] for i in places)
        return replace(self, ids=self.ids[rows], scores=self.scores[rows], evidence=evidence)
