"""A fact about an image: a key, and a value that is a number, a text or a truth value."""

import re
from math import isfinite
from typing import Literal, TypeAlias

from resight.images.metadata import EXIF_NUMBERS, EXIF_TEXTS

Value: TypeAlias = bool | int | float | str
Kind = Literal["number", "text", "truth"]

KINDS: tuple[Kind, ...] = ("number", "text", "truth")
BUILT_IN: dict[str, Kind] = {
    "id": "number",
    "path": "text",
    "folder": "text",
    "width": "number",
    "height": "number",
    "bytes": "number",
    "missing": "truth",
}
"""What a collection knows of every image, under keys that cannot be given to others."""

EXIF: dict[str, Kind] = {**dict.fromkeys(EXIF_TEXTS, "text"), **dict.fromkeys(EXIF_NUMBERS, "number")}

LONGEST_KEY, LONGEST_TEXT = 100, 65_536  # characters

_LONGEST_NUMBER = 400  # digits: the smallest float64 has 342 in plain decimals
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")


def kind_of(value: Value) -> Kind:
    """A truth value is no number, as it would be for Python."""
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"


def number(text: str) -> int | float | None:
    """The number a text spells in plain decimals, without leading zeros; None where it spells none."""
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text):
        return None
    value = float(text) if "." in text else int(text)
    return None if wrong_with_value(value) else value


def wrong_with_key(key: object) -> str | None:
    """Why a fact cannot have this key, or None."""
    if not isinstance(key, str):
        return f"is a {type(key).__name__}: a key is a text"
    if key in BUILT_IN:
        return "is what the collection itself knows of each image: choose another name or leave it out"
    if not key or key != key.strip():
        return "is empty or has white space around it"
    if len(key) > LONGEST_KEY:
        return f"is longer than {LONGEST_KEY} characters"
    return _wrong_with_text(key)


def wrong_with_value(value: object) -> str | None:
    """Why a fact cannot have this value, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else "is a whole number of more than 64 bits: give it as text"
    if isinstance(value, float):
        return None if isfinite(value) else "is not a finite number"
    if not isinstance(value, str):
        return f"is a {type(value).__name__}: a value is a number, a text or a truth value"
    if len(value) > LONGEST_TEXT:
        return f"is longer than {LONGEST_TEXT:,} characters"
    return _wrong_with_text(value)


def _wrong_with_text(text: str) -> str | None:
    if "\0" in text:
        return "has a NUL character"
    if _SURROGATE.search(text):
        return "is not valid Unicode"
    return None
