"""Conditions on what is known of images besides their pixels: values that are built, written, read and carried out.

An image for which a key is not known fulfils no condition on it, and so fulfils ``Not`` of it. Values of another kind
(number, text, truth value) are never equal, and never in a range.

Keys: those of the collection's metadata, and those built in (``resight.store.facts.BUILT_IN``). A ``path`` equals its
absolute path or what that ends in, whole names; a ``folder`` equals each folder and archive the image lies in, at any
depth, and what those paths end in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from resight.errors import QueryError
from resight.store.facts import BUILT_IN, Kind, Value, kind_of, wrong_with_key, wrong_with_value

Bound: TypeAlias = int | float | str


@dataclass(frozen=True)
class Equals:
    """The value is this one; texts by every character."""

    key: str
    value: Value

    def __post_init__(self) -> None:
        _check(self.key, [self.value])


@dataclass(frozen=True)
class OneOf:
    """The value is one of these, which are of one kind."""

    key: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        _check(self.key, self.values)


@dataclass(frozen=True)
class Between:
    """The value is from `low` to `high`, both included unless open; without an end where that is None.

    Texts are in the order of their code points, and compared only as far as the bound goes: ``2019-05-01T10:11:12``
    is not above ``2019-05``.
    """

    key: str
    low: Bound | None = None
    high: Bound | None = None
    low_open: bool = False
    high_open: bool = False

    def __post_init__(self) -> None:
        ends = [end for end in (self.low, self.high) if end is not None]
        _check(self.key, ends)
        if kind_of(ends[0]) == "truth":
            raise QueryError(f"{self.key}: true and false have no order; use =")
        if (self.low is None and self.low_open) or (self.high is None and self.high_open):
            raise QueryError(f"{self.key}: a range without an end cannot leave that end out")

    @property
    def kind(self) -> Kind:
        """Of the values it can hold for."""
        return kind_of(self.high if self.low is None else self.low)  # type: ignore[arg-type]  # one is there


@dataclass(frozen=True)
class Contains:
    """The value is a text with this one in it, whatever the case of letters."""

    key: str
    text: str

    def __post_init__(self) -> None:
        _check(self.key, [self.text])
        if not isinstance(self.text, str) or not self.text:
            raise QueryError(f"{self.key}: what it should contain is a text of at least one character")


@dataclass(frozen=True)
class Has:
    """There is a value."""

    key: str

    def __post_init__(self) -> None:
        _check_key(self.key)


@dataclass(frozen=True)
class Not:
    """The condition does not hold."""

    part: "Where"


@dataclass(frozen=True)
class All:
    """Each of two or more conditions holds."""

    parts: "tuple[Where, ...]"

    def __post_init__(self) -> None:
        _check_parts(self.parts)


@dataclass(frozen=True)
class Any_:
    """One or more of two or more conditions holds."""

    parts: "tuple[Where, ...]"

    def __post_init__(self) -> None:
        _check_parts(self.parts)


Leaf: TypeAlias = Equals | OneOf | Between | Contains | Has
Where: TypeAlias = Leaf | Not | All | Any_


def all_of(conditions: Sequence[Where]) -> Where | None:
    """All of any number of conditions: None of none, and one as it is."""
    return All(tuple(conditions)) if len(conditions) > 1 else next(iter(conditions), None)


def leaves(where: Where) -> Iterator[Leaf]:
    """The conditions on single keys, from left to right; not recursive, so of any depth."""
    waiting = [where]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Not):
            waiting.append(part.part)
        elif isinstance(part, All | Any_):
            waiting.extend(reversed(part.parts))
        else:
            yield part


def _check(key: str, values: Sequence[Value]) -> None:
    _check_key(key)
    if not values:
        raise QueryError(f"{key}: there is no value to compare with")
    for value in values:
        if wrong := wrong_with_value(value):
            raise QueryError(f"{key}: {value!r} {wrong}")
    if len({kind_of(value) for value in values}) > 1:
        raise QueryError(f"{key}: the values {', '.join(map(repr, values[:5]))} are not of one kind")


def _check_key(key: str) -> None:
    if key not in BUILT_IN and (wrong := wrong_with_key(key)):
        raise QueryError(f"the key {key!r} {wrong}")


def _check_parts(parts: "tuple[Where, ...]") -> None:
    if len(parts) < 2:
        raise ValueError("All and Any_ are of two or more conditions; all_of takes any number")
