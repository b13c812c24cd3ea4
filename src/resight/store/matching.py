"""Which images of a catalogue fulfil a condition: one parameterised SQL query over its indexes."""

import difflib

import numpy as np
from numpy.typing import NDArray

from resight.errors import QueryError
from resight.store.catalogue import Catalogue
from resight.store.facts import BUILT_IN, EXIF, Kind, Value, kind_of
from resight.store.metadata import keys, kinds_of
from resight.store.where import All, Any_, Between, Contains, Equals, Has, Leaf, Not, OneOf, Where, leaves

_MOST_LEAVES, _MOST_VALUES = 500, 10_000  # SQLite has limits of depth and of parameters

_Sql = tuple[str, list[Value]]


def matching_ids(catalogue: Catalogue, where: Where) -> NDArray[np.int64]:
    """Ascending ids of the images that fulfil a condition, (M,) int64.

    Raises QueryError for a key that no image has and EXIF does not know, naming near ones; for a value of another kind
    than any that the key has; and for what ``path`` and ``folder`` cannot be asked.
    """
    _check(catalogue, where)
    sql, values = _sql(where)
    rows = catalogue.rows(f"SELECT id FROM images WHERE {sql} ORDER BY id", values)
    return np.fromiter((image for (image,) in rows), np.int64, len(rows))


def _check(catalogue: Catalogue, where: Where) -> None:
    found = list(leaves(where))
    values = sum(len(leaf.values) for leaf in found if isinstance(leaf, OneOf))
    if len(found) > _MOST_LEAVES or values > _MOST_VALUES:
        raise QueryError(f"the condition is too long: at most {_MOST_LEAVES} comparisons, {_MOST_VALUES:,} values")
    for leaf in found:
        known = _kinds(catalogue, leaf.key)
        kind = _kind(leaf)
        if kind is not None and kind not in known:
            advice = '; in double quotes a value is a text, as in key = "1900"' if known == {"text"} else ""
            raise QueryError(f"{leaf.key} has values of kind {' and '.join(sorted(known))}, not {kind}{advice}")
        if leaf.key in ("path", "folder") and not _is_asked_of_path(leaf):
            ways = "= and in (…)" if leaf.key == "folder" else "=, in (…) and has"
            raise QueryError(f"a {leaf.key} is compared by {ways} with a name of at least one character")


def _kinds(catalogue: Catalogue, key: str) -> set[Kind]:
    """Of the values a key has or, if it comes from EXIF, could have."""
    if key in BUILT_IN:
        return {BUILT_IN[key]}
    known = kinds_of(catalogue, key) | ({EXIF[key]} if key in EXIF else set())
    if not known:
        names = [*keys(catalogue), *EXIF, *BUILT_IN]
        folded = {name.casefold(): name for name in names}
        near = [folded[name] for name in difflib.get_close_matches(key.casefold(), folded, n=3)]
        advice = f"did you mean {' or '.join(near)}?" if near else "`resight metadata keys` lists those there are"
        raise QueryError(f"no image has metadata {key}; {advice}")
    return known


def _kind(leaf: Leaf) -> Kind | None:
    """The kind of value that a condition can hold for; None if any."""
    match leaf:
        case Equals(_, value):
            return kind_of(value)
        case OneOf(_, values):
            return kind_of(values[0])
        case Between():
            return leaf.kind
        case Contains():
            return "text"
        case Has():
            return None


def _is_asked_of_path(leaf: Leaf) -> bool:
    match leaf:
        case Equals(_, value):
            return value != ""
        case OneOf(_, values):
            return "" not in values
        case Contains(key):
            return key == "path"
        case _:
            return isinstance(leaf, Has)


def _sql(where: Where) -> _Sql:
    """An expression over a row of images, and its parameters in order."""
    match where:
        case Not(part):
            sql, values = _sql(part)
            return f"NOT ({sql})", values
        case All(parts) | Any_(parts):
            done = [_sql(part) for part in parts]
            word = " AND " if isinstance(where, All) else " OR "
            return word.join(f"({sql})" for sql, _ in done), [value for _, own in done for value in own]
        case Has(key) if key in BUILT_IN:
            return "TRUE", []
        case Has(key):
            return "id IN (SELECT image FROM metadata WHERE key = ?)", [key]
        case Equals("path" | "folder" as key, value):
            return _at(key, [value])
        case OneOf("path" | "folder" as key, values):
            return _at(key, values)
        case _ if where.key in BUILT_IN:
            return _compared(where, "origin" if where.key == "path" else where.key)
        case _:
            sql, values = _compared(where, "value")
            kind = _kind(where)
            return (
                f"id IN (SELECT image FROM metadata WHERE key = ? AND kind = ? AND {sql})",
                [where.key, str(kind), *values],
            )


def _compared(leaf: Leaf, column: str) -> _Sql:
    match leaf:
        case Equals(_, value):
            return f"{column} = ?", [value]
        case OneOf(_, values):
            return f"{column} IN ({','.join('?' * len(values))})", list(values)
        case Contains(_, text):
            return f"instr(casefold({column}), ?) > 0", [text.casefold()]
        case Between():
            return _between(leaf, column)
        case Has():
            raise ValueError("Has compares nothing")


def _between(leaf: Between, column: str) -> _Sql:
    ends = [(leaf.low, ">" if leaf.low_open else ">="), (leaf.high, "<" if leaf.high_open else "<=")]
    done = [_end(bound, mark, column) for bound, mark in ends if bound is not None]
    return " AND ".join(sql for sql, _ in done), [value for _, own in done for value in own]


def _end(bound: Value, mark: str, column: str) -> _Sql:
    """One end of a range. Only the part of a text that is as long as the bound counts."""
    if isinstance(bound, str) and mark in (">", "<="):  # for the others it makes no difference
        return f"substr({column}, 1, ?) {mark} ?", [len(bound), bound]
    return f"{column} {mark} ?", [bound]


def _at(key: str, places: "tuple[Value, ...] | list[Value]") -> _Sql:
    """Images at paths, or in folders and archives at any depth; a place without a leading / is the end of a path."""
    parts: list[str] = []
    values: list[Value] = []
    for place in map(str, places):
        if key == "path":
            own: list[Value] = [place] if place.startswith("/") else [-len(place) - 1, f"/{place}"]
            parts.append("origin = ?" if len(own) == 1 else "substr(origin, ?) = ?")
        elif place.startswith("/"):
            # A range, so that the index on origin finds them: 0 comes after /.
            prefix = place.rstrip("/")
            own = [f"{prefix}/", f"{prefix}0", f"{prefix}!/", f"{prefix}!0"]
            parts.append("origin >= ? AND origin < ? OR origin >= ? AND origin < ?")
        else:
            own = [f"/{place.rstrip('/')}/", f"/{place.rstrip('/')}!/"]
            parts.append("instr(origin, ?) > 0 OR instr(origin, ?) > 0")
        values += own
    return " OR ".join(parts), values
