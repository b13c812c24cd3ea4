"""Broken versions of what resight itself writes and reads: text, JSON, pickles, safetensors and zips of arrays."""

import io
import json
import pickletools
import random
import re
import zipfile
import zlib
from typing import Any

from mutate import edited

_ODD = (
    None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "0", "..",
    "../../etc/passwd", "/dev/zero", "a\0b", "\x1b[2J", "\ud800", "é" * 300, [], {}, [[]], {"a": {}}, [None], [1, "a"],
)  # fmt: skip
_WORDS = (
    "", "0", "-1", "1e999", "nan", "inf", "true", "[]", "{}", '""', "'", '"', ",", ";", "\n", "\r", "\t", "\0",
    "\x1b[31m",    "999999999999999999999", "[" * 5000, '{"a":' * 5000,
    "a=" + "[" * 5000, "é", "../x", "{a=", "[[", "= =", "0x", "1979-05-27", "1_0", "\ufeff", "9" * 5000,
)  # fmt: skip
_TEXT = re.compile(rb"\w+|\s+|[^\w\s]")


def mutated(rng: random.Random, name: str, data: bytes) -> bytes:
    """One of the many ways in which a file of this name could be wrong."""
    if rng.random() < 0.15:
        return data[: rng.randrange(len(data) + 1)]
    structured = _BY_SUFFIX.get(name.rpartition(".")[2])
    if structured is None or rng.random() < 0.35:
        return edited(rng, data)
    return structured(rng, data)


def _json(rng: random.Random, data: bytes) -> bytes:
    try:
        table = json.loads(data)
    except ValueError:
        return _words(rng, data)
    for _ in range(rng.choice((1, 1, 2))):
        table = _changed(rng, table)
    return json.dumps(table).encode() if rng.random() < 0.9 else _words(rng, json.dumps(table).encode())


def _changed(rng: random.Random, value: Any) -> Any:
    """The value with one of those within it replaced, taken away or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(6):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {str(rng.choice(_ODD)): rng.choice(_ODD)}
            case _:
                return value | {key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case _:
                return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    return rng.choice(_ODD)


def _words(rng: random.Random, data: bytes) -> bytes:
    words = _TEXT.findall(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(words) + 1)
        match rng.randrange(4):
            case 0:
                del words[at : at + rng.randrange(4)]
            case 1:
                words[at:at] = words[rng.randrange(len(words) + 1) :][: rng.randrange(20)]
            case _:
                words[at : at + rng.randrange(2)] = [rng.choice(_WORDS).encode()]
    return b"".join(words)


def _pickle(rng: random.Random, data: bytes) -> bytes:
    """Opcodes with their arguments, taken away, doubled, swapped or edited."""
    try:
        places = [at for _, _, at in pickletools.genops(data) if at is not None]
    except Exception:  # it has been broken before
        return edited(rng, data)
    parts = [data[at:end] for at, end in zip(places, [*places[1:], len(data)], strict=True)]
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(parts))
        match rng.randrange(4):
            case 0:
                parts[at] = b""
            case 1:
                parts[at] *= 2
            case 2:
                parts[at] = parts[rng.randrange(len(parts))]
            case _:
                parts[at] = edited(rng, parts[at])
    return b"".join(parts)


def _safetensors(rng: random.Random, data: bytes) -> bytes:
    """With another header of the right length, or other tensors behind the old one."""
    length = int.from_bytes(data[:8], "little")
    head, tensors = data[8 : 8 + length], data[8 + length :]
    match rng.randrange(4):
        case 0:
            tensors = edited(rng, tensors)
        case 1:  # what is text within text
            table = json.loads(head)
            own = table.get("__metadata__", {})
            key = rng.choice(list(own)) if own else None
            if key is not None:
                own[key] = _json(rng, own[key].encode()).decode("utf-8", "replace")
            head = json.dumps(table).encode()
        case _:
            head = _json(rng, head)
    return len(head).to_bytes(8, "little") + head + tensors


def _zip(rng: random.Random, data: bytes) -> bytes:
    """One member changed and packed again, with checksums that are right."""
    with zipfile.ZipFile(io.BytesIO(data)) as box:
        members = {name: box.read(name) for name in box.namelist()}
    name = rng.choice(list(members))
    members[name] = _pickle(rng, members[name]) if name.endswith(".pkl") else edited(rng, members[name])
    if rng.random() < 0.2:
        members.pop(rng.choice(list(members)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as box:
        for name, content in members.items():
            box.writestr(name, content)
    return buffer.getvalue()


def _torch(rng: random.Random, data: bytes) -> bytes:
    return _zip(rng, data) if data[:2] == b"PK" else _pickle(rng, data)


def _mat(rng: random.Random, data: bytes) -> bytes:
    """Its elements begin after 128 bytes of heading; a compressed one is broken within."""
    if data[128:132] == b"\x0f\0\0\0":
        inner = edited(rng, zlib.decompress(data[136:]))
        packed = zlib.compress(inner)
        return data[:132] + len(packed).to_bytes(4, "little") + packed
    return data[:128] + edited(rng, data[128:])


_BY_SUFFIX = {
    "json": _json,
    "toml": _words,
    "csv": _words,
    "txt": _words,
    "trec": _words,
    "pkl": _pickle,
    "safetensors": _safetensors,
    "npz": _zip,
    "pth": _torch,
    "mat": _mat,
}
