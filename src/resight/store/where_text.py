"""Conditions as a person writes them: ``taken >= 2019-05-01 and (place = "Saint-Denis" or not has place)``.

condition  = both, or several joined by ``or``
both       = single, or several joined by ``and``
single     = ``not`` single | ``(`` condition ``)`` | ``has`` key | comparison
comparison = key, and one of
             ``= value``  ``!= value``  ``< bound``  ``<= bound``  ``> bound``  ``>= bound``
             ``in low..high`` (either may be left out; ``low<..`` and ``..<high`` leave the bound itself out)
             ``in (value, value, …)``  ``has text``
key, text  = a word, or anything in double quotes with JSON's escapes; a word is without spaces and ``"()<>=,``
value      = ``true`` | ``false`` | a number in plain decimals | a word | a quoted text
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resight.errors import QueryError
from resight.store.facts import Value, number
from resight.store.where import All, Any_, Between, Contains, Equals, Has, Not, OneOf, Where, all_of

DEEPEST = 50  # conditions within conditions, in text and JSON

_TOKEN = re.compile(
    r'\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")'
    r"|(?P<mark><?\.\.<?|<=|>=|!=|[=<>(),])"
    r'|(?P<word>(?:(?!\.\.|!=)[^\s"()<>=,])+))',
    re.DOTALL,
)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS = frozenset({"and", "or", "not", "has", "in", "true", "false"})
_RANGES = ("..", "<..", "..<", "<..<")


def parse_where(text: str) -> Where:
    """The condition that a text says. Raises QueryError that shows the text and says what was expected where."""
    reader = _Reader(text)
    try:
        where = reader.condition(0)
        if reader.token is not None:
            raise reader.expected("and, or, or the end")
    except QueryError as error:
        raise QueryError(f"condition {text!r}: {error}") from error
    return where


def parse_all(texts: Sequence[str]) -> Where | None:
    """All of several conditions, of an option that may be repeated; None of none."""
    return all_of([parse_where(text) for text in texts])


def format_where(where: Where) -> str:
    """The text of a condition; ``parse_where`` gives the same condition back."""
    match where:
        case Equals(key, value):
            return f"{_key(key)} = {_value(value)}"
        case OneOf(key, values):
            return f"{_key(key)} in ({', '.join(map(_value, values))})"
        case Between(key, low, None, low_open):
            return f"{_key(key)} {'>' if low_open else '>='} {_value(low)}"  # type: ignore[arg-type]
        case Between(key, None, high, _, high_open):
            return f"{_key(key)} {'<' if high_open else '<='} {_value(high)}"  # type: ignore[arg-type]
        case Between(key, low, high, low_open, high_open):
            mark = f"{'<' if low_open else ''}..{'<' if high_open else ''}"
            return f"{_key(key)} in {_value(low)}{mark}{_value(high)}"  # type: ignore[arg-type]
        case Contains(key, text):
            return f"{_key(key)} has {_value(text)}"
        case Has(key):
            return f"has {_key(key)}"
        case Not(part):
            return f"not {_within(part)}"
        case All(parts):
            return " and ".join(map(_within, parts))
        case Any_(parts):
            return " or ".join(map(_within, parts))


def _within(where: Where) -> str:
    return f"({format_where(where)})" if isinstance(where, All | Any_) else format_where(where)


def _key(key: str) -> str:
    return key if _PLAIN.fullmatch(key) and key.lower() not in _KEYWORDS else _quoted(key)


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    # In plain decimals, as they are read, but as short as the number allows.
    return str(value) if isinstance(value, int) else np.format_float_positional(value, trim="0")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True)
class _Token:
    """kind: quoted, mark or word. text: as written, but of a quoted one what it means."""

    kind: str
    text: str

    @property
    def keyword(self) -> str | None:
        """The word in small letters if it has a meaning of its own."""
        lower = self.text.lower()
        return lower if self.kind == "word" and lower in _KEYWORDS else None


def _tokens(text: str) -> list[_Token]:
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise QueryError(f"condition {text!r}: the quotation mark at {text[at:].strip()[:20]!r} is not closed")
        kind = str(match.lastgroup)
        try:
            found.append(_Token(kind, json.loads(match[kind], strict=False) if kind == "quoted" else match[kind]))
        except ValueError as error:
            raise QueryError(f"condition {text!r}: {match[kind]} has an escape that is not JSON's") from error
        at = match.end()
    return found


class _Reader:
    """Reads tokens from left to right, each rule of the grammar by a method."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    @property
    def token(self) -> _Token | None:
        """The next one, or None at the end."""
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def expected(self, what: str) -> QueryError:
        """Says what should have been where the next token is."""
        if self.token is None:
            return QueryError(f"{what} expected at the end")
        advice = "" if self.token.kind == "mark" else "; a text of several words, or a word with a meaning, is quoted"
        return QueryError(f"{what} expected, not {self.token.text!r}{advice}")

    def condition(self, depth: int) -> Where:
        if depth > DEEPEST:
            raise QueryError(f"more than {DEEPEST} conditions within each other")
        parts = [self._both(depth)]
        while self._skip_word("or"):
            parts.append(self._both(depth))
        return Any_(tuple(parts)) if len(parts) > 1 else parts[0]

    def _both(self, depth: int) -> Where:
        parts = [self._single(depth)]
        while self._skip_word("and"):
            parts.append(self._single(depth))
        return All(tuple(parts)) if len(parts) > 1 else parts[0]

    def _single(self, depth: int) -> Where:
        if depth > DEEPEST:
            raise QueryError(f"more than {DEEPEST} conditions within each other")
        if self._skip_word("not"):
            return Not(self._single(depth + 1))
        if self._skip_mark("("):
            where = self.condition(depth + 1)
            if not self._skip_mark(")"):
                raise self.expected(")")
            return where
        if self._skip_word("has"):
            return Has(self._text("a key"))
        return self._comparison(self._text("a key, has, not or ("))

    def _comparison(self, key: str) -> Where:
        if self._skip_word("has"):
            return Contains(key, self._text("a text"))
        if self._skip_word("in"):
            return self._list(key) if self._skip_mark("(") else self._range(key)
        if self._skip_mark("="):
            return Equals(key, self._value())
        if self._skip_mark("!="):
            return Not(Equals(key, self._value()))
        for mark in ("<", "<="):
            if self._skip_mark(mark):
                return Between(key, high=self._value(), high_open=mark == "<")
        for mark in (">", ">="):
            if self._skip_mark(mark):
                return Between(key, low=self._value(), low_open=mark == ">")
        raise self.expected(f"=, !=, <, <=, >, >=, in or has after {key}")

    def _list(self, key: str) -> Where:
        values = [self._value()]
        while self._skip_mark(","):
            values.append(self._value())
        if not self._skip_mark(")"):
            raise self.expected(", or )")
        return OneOf(key, tuple(values))

    def _range(self, key: str) -> Where:
        low = self._value() if self._is_value() else None
        for mark in _RANGES:
            if self._skip_mark(mark):
                high = self._value() if self._is_value() else None
                return Between(key, low, high, mark.startswith("<"), mark.endswith("<"))
        raise self.expected("low..high or (value, …)")

    def _is_value(self) -> bool:
        token = self.token
        return token is not None and token.kind != "mark" and token.keyword in (None, "true", "false")

    def _value(self) -> Value:
        token = self.token
        if token is None or not self._is_value():
            raise self.expected("a value")
        self._at += 1
        if token.keyword is not None:
            return token.keyword == "true"
        spelled = number(token.text) if token.kind == "word" else None
        return token.text if spelled is None else spelled

    def _text(self, what: str) -> str:
        token = self.token
        if token is None or token.kind == "mark" or token.keyword is not None:
            raise self.expected(what)
        self._at += 1
        return token.text

    def _skip_word(self, keyword: str) -> bool:
        return self._skip(self.token is not None and self.token.keyword == keyword)

    def _skip_mark(self, mark: str) -> bool:
        return self._skip(self.token is not None and (self.token.kind, self.token.text) == ("mark", mark))

    def _skip(self, there: bool) -> bool:
        self._at += there
        return there
