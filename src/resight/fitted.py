"""Which photos something was learned from, kept so small that it goes into an artefact's header."""

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, Self

_SMALLEST = 4096
_DIGITS = 12  # of a digest: two of a million photos agree in them by chance once in 500 collections
_DIGEST = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")


@dataclass(frozen=True)
class PhotoSketch:
    """The smallest digests of a set's photos (bottom-k sketch; Broder 1997). Up to 4096 photos it is all of them.

    count: distinct photos. smallest: the first 12 hexadecimal digits of their content digests, ascending.
    """

    count: int
    smallest: tuple[str, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.smallest, self.smallest[1:], strict=False))
        if not ascending or not all(map(_DIGEST.fullmatch, self.smallest)):
            raise ValueError(f"the digests of photos must be ascending and of {_DIGITS} hexadecimal digits")
        if len(self.smallest) != min(self.count, _SMALLEST):
            raise ValueError(f"{self.count} photos leave {_SMALLEST} digests at most, not {len(self.smallest)}")

    @classmethod
    def of(cls, digests: Iterable[str]) -> Self:
        """Of the photos with these content digests (``resight.images.digest``: hexadecimal, evenly distributed)."""
        distinct = _shortened(digests)
        return cls(len(distinct), tuple(heapq.nsmallest(_SMALLEST, distinct)))

    def share_in(self, digests: Iterable[str]) -> float | None:
        """The share, 0 … 1, of the distinct photos with these digests that are in the set.

        Exact for sets of up to 4096 photos; for larger ones estimated, without bias, from those of the given photos
        whose digests are within the sketch's range, an even sample of them. None where no photo is.
        """
        given = _shortened(digests)
        if self.count > _SMALLEST:
            given = {digest for digest in given if digest <= self.smallest[-1]}
        return len(given.intersection(self.smallest)) / len(given) if given else None

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` reads."""
        return {"count": self.count, "smallest": list(self.smallest)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises KeyError, TypeError or ValueError where ``to_json`` cannot have written it."""
        return cls(int(value["count"]), tuple(map(str, value["smallest"])))


class Fitted(Protocol):
    """A learned thing that says what it was fitted on: in words for reports, and by its photos where they are known."""

    @property
    def fitted_on(self) -> str: ...

    @property
    def photos(self) -> PhotoSketch | None: ...


def _shortened(digests: Iterable[str]) -> set[str]:
    return {digest[:_DIGITS] for digest in digests}
