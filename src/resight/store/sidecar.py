"""Sidecar files: rows of facts about images, each with the path of its image, as CSV or JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resight.errors import ResightError
from resight.store.facts import Value, number, wrong_with_key, wrong_with_value

_DELIMITERS = (",", ";", "\t")
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Row:
    """The facts of one image. number: its line in a CSV file, its place in a JSON file, both from 1.

    path: as written. facts: None where a value is empty.
    """

    number: int
    path: str
    facts: Mapping[str, Value | None]


def read_sidecar(file: str | Path, key: str = "path") -> list[Row]:
    """The rows of a .csv or .json file.

    CSV: UTF-8 with a heading, separated by commas, semicolons or tabs, whichever the heading has `key` by; white space
    around values does not count. A column holds numbers if every value in it is one in plain decimals without leading
    zeros, and none is written in two ways (1998.1 and 1998.10 may be numbers of inventory); it holds truth values if
    each is true or false; else texts.
    JSON: a list of objects that have their path under `key`, or an object of objects by path; values keep their type.

    Raises ResightError, naming the file and the column or entry, for what is malformed or cannot be a fact.
    """
    file = Path(file)
    readers = {".csv": _read_csv, ".json": _read_json}
    if file.suffix.lower() not in readers:
        raise ResightError(f"{file}: a file of metadata is named .csv or .json")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ResightError(f"{file}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ResightError(f"{file}: is not UTF-8; save it as UTF-8 and try again") from error
    try:
        return readers[file.suffix.lower()](text, key)
    except _Malformed as error:
        raise ResightError(f"{file}: {error}") from error


class _Malformed(Exception):
    """Says what is wrong, without the file's name."""


def _read_csv(text: str, key: str) -> list[Row]:
    delimiter = next((d for d in _DELIMITERS if key in _heading(text, d)), None)
    if delimiter is None:
        raise _Malformed(f"the heading has no column {key}; --key names the column with the paths")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    numbered: list[tuple[int, list[str]]] = []
    try:
        numbered += [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise _Malformed(f"line {reader.line_num}: {error}") from error
    heading = [name.strip() for name in numbered[0][1]]
    if twice := sorted({name for name in heading if name and heading.count(name) > 1}):
        raise _Malformed(f"the heading has two columns {twice[0]!r}")
    for line, cells in numbered[1:]:
        if len(cells) != len(heading):
            raise _Malformed(f"line {line}: has {len(cells)} values, the heading {len(heading)}")
    at = heading.index(key)
    for line, cells in numbered[1:]:
        _check_value(f"line {line}: {key}", cells[at])
    columns = {
        name: _typed(name, [(line, cells[i].strip()) for line, cells in numbered[1:]])
        for i, name in enumerate(heading)
        # Spreadsheets end lines with columns that have neither name nor value.
        if i != at and (name or any(cells[i].strip() for _, cells in numbered[1:]))
    }
    return [
        Row(line, cells[at], {name: column[row] for name, column in columns.items()})
        for row, (line, cells) in enumerate(numbered[1:])
    ]


def _heading(text: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])]
    except csv.Error:
        return []


def _typed(name: str, cells: list[tuple[int, str]]) -> Sequence[Value | None]:
    """The values of a column: numbers or truth values where all are, else texts; None for empty ones."""
    _check_key(f"column {name!r}", name)
    for line, cell in cells:
        _check_value(f"line {line}: {name}", cell)
    spellings = {cell for _, cell in cells if cell}
    numbers = {cell: value for cell in spellings if (value := number(cell)) is not None}
    known: Mapping[str, Value] = {cell: cell for cell in spellings}
    if len(set(numbers.values())) == len(spellings):
        known = numbers
    elif all(cell.lower() in _TRUTH for cell in spellings):
        known = {cell: _TRUTH[cell.lower()] for cell in spellings}
    return [known.get(cell) for _, cell in cells]


def _read_json(text: str, key: str) -> list[Row]:
    try:
        content = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _Malformed(f"is not JSON: {error}") from error
    except ValueError as error:  # Python's limit of digits
        raise _Malformed(f"has a number that is too long: {error}") from error
    if isinstance(content, Mapping):
        return [_row(i, path, entries, f"entry {path!r}") for i, (path, entries) in enumerate(content.items(), 1)]
    if not isinstance(content, list):
        raise _Malformed("is neither a list of objects nor an object of objects by path")
    rows = []
    for i, entries in enumerate(content, 1):
        path = entries.pop(key, None) if isinstance(entries, dict) else None
        if path is not None and not isinstance(path, str):
            raise _Malformed(f"entry {i}: {key} is not a text")
        rows.append(_row(i, path or "", entries, f"entry {i}"))
    return rows


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Malformed(f"an object has {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


def _no_number(text: str) -> None:
    raise _Malformed(f"{text} is not JSON")


def _row(place: int, path: str, entries: object, where: str) -> Row:
    _check_value(f"{where}: the path", path)
    if not isinstance(entries, dict):
        raise _Malformed(f"{where}: is not an object of facts")
    for name, value in entries.items():
        _check_key(f"{where}: key {name!r}", name)
        if isinstance(value, dict | list):
            raise _Malformed(f"{where}: {name!r} is nested; a value is a number, a text, true or false")
        if value is not None:
            _check_value(f"{where}: {name!r}", value)
    return Row(place, path, entries)


def _check_key(where: str, name: str) -> None:
    if wrong := wrong_with_key(name):
        raise _Malformed(f"{where} {wrong}")


def _check_value(where: str, value: object) -> None:
    if wrong := wrong_with_value(value):
        raise _Malformed(f"{where} {wrong}")
