"""Conditions as JSON: objects told apart by ``op``.

``{"op": "equals", "key": k, "value": v}``, ``{"op": "one_of", "key": k, "values": [v, …]}``,
``{"op": "between", "key": k, "low": v, "high": v, "low_open": false, "high_open": false}`` (all but key optional),
``{"op": "contains", "key": k, "text": t}``, ``{"op": "has", "key": k}``, ``{"op": "not", "part": c}``,
``{"op": "all", "parts": [c, c, …]}``, ``{"op": "any", "parts": [c, c, …]}``.
"""

from collections.abc import Mapping
from typing import Any

from resight.errors import QueryError
from resight.store.where import All, Any_, Between, Contains, Equals, Has, Not, OneOf, Where
from resight.store.where_text import DEEPEST

_FORMS: dict[str, tuple[dict[str, tuple[type, ...]], frozenset[str]]] = {
    # op: the types of its entries, and which of them may be left out
    "equals": ({"key": (str,), "value": (bool, int, float, str)}, frozenset()),
    "one_of": ({"key": (str,), "values": (list, tuple)}, frozenset()),
    "between": (
        {
            "key": (str,),
            "low": (int, float, str, type(None)),
            "high": (int, float, str, type(None)),
            "low_open": (bool,),
            "high_open": (bool,),
        },
        frozenset({"low", "high", "low_open", "high_open"}),
    ),
    "contains": ({"key": (str,), "text": (str,)}, frozenset()),
    "has": ({"key": (str,)}, frozenset()),
    "not": ({"part": (dict,)}, frozenset()),
    "all": ({"parts": (list, tuple)}, frozenset()),
    "any": ({"parts": (list, tuple)}, frozenset()),
}


def from_json(value: object) -> Where:
    """The condition that decoded JSON says. Raises QueryError that names what is wrong in it."""
    return _read(value, 0)


def to_json(where: Where) -> dict[str, Any]:
    """Of a condition, ready for ``json.dumps``; ``from_json`` gives the same condition back."""
    match where:
        case Equals(key, value):
            return {"op": "equals", "key": key, "value": value}
        case OneOf(key, values):
            return {"op": "one_of", "key": key, "values": list(values)}
        case Between(key, low, high, low_open, high_open):
            ends = {"low": low, "high": high, "low_open": low_open, "high_open": high_open}
            return {"op": "between", "key": key, **ends}
        case Contains(key, text):
            return {"op": "contains", "key": key, "text": text}
        case Has(key):
            return {"op": "has", "key": key}
        case Not(part):
            return {"op": "not", "part": to_json(part)}
        case All(parts):
            return {"op": "all", "parts": [to_json(part) for part in parts]}
        case Any_(parts):
            return {"op": "any", "parts": [to_json(part) for part in parts]}


def _read(value: object, depth: int) -> Where:
    if depth > DEEPEST:
        raise QueryError(f"the condition has more than {DEEPEST} conditions within each other")
    entries = _entries(value)
    op = entries.pop("op")
    if op == "not":
        return Not(_read(entries["part"], depth + 1))
    if op in ("all", "any"):
        parts = tuple(_read(part, depth + 1) for part in entries["parts"])
        if len(parts) < 2:
            raise QueryError(f"op {op} needs two or more parts; it has {len(parts)}")
        return All(parts) if op == "all" else Any_(parts)
    if op == "one_of":
        return OneOf(entries["key"], tuple(entries["values"]))
    simple = {"equals": Equals, "between": Between, "contains": Contains, "has": Has}
    where: Where = simple[op](**entries)
    return where


def _entries(value: object) -> dict[str, Any]:
    """The entries of a condition, of the types they should have."""
    if not isinstance(value, Mapping):
        raise QueryError(f"a condition is a JSON object with an op, not {value!r}")
    op = value.get("op")
    if not isinstance(op, str) or op not in _FORMS:
        raise QueryError(f"a condition's op is one of {', '.join(_FORMS)}, not {op!r}")
    types, optional = _FORMS[op]
    if unknown := [name for name in value if name != "op" and name not in types]:
        raise QueryError(f"op {op} has no entry {unknown[0]!r}; it has {', '.join(types)}")
    for name, allowed in types.items():
        if name not in value:
            if name not in optional:
                raise QueryError(f"op {op} lacks its entry {name}")
        # A truth value is an int for Python, not for JSON.
        elif not isinstance(value[name], allowed) or (isinstance(value[name], bool) and bool not in allowed):
            raise QueryError(f"op {op}: {name} cannot be {value[name]!r}")
    return dict(value)
