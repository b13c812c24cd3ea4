"""What the commands print: results on standard output, everything else on standard error."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def line(text: str = "") -> None:
    """One line of results."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line for the person, not for the pipe."""
    sys.stderr.write(f"resight: {printable(text)}\n")
    sys.stderr.flush()


def as_json(value: Any) -> str:
    """ASCII JSON, which any terminal encoding carries whatever the file names; paths as strings."""
    return json.dumps(value, default=str)


def printable(text: str) -> str:
    """`text` with control characters escaped: a file name must not steer the terminal or break a table."""
    return "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else ascii(c)[1:-1] for c in text)


def csv_rows(rows: Iterable[Sequence[Any]]) -> None:
    """CSV (RFC 4180, but with lines ended by \\n); None is empty."""
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows)


def columns(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> None:
    """Rows aligned on two spaces, the first being the heading; columns `left` and the last are left-aligned.

    Nothing is cut or wrapped, whatever the terminal's width: a path must stay a path.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    for row in rows:
        cells = [
            cell if i == last else cell.ljust(widths[i]) if i in left else cell.rjust(widths[i])
            for i, cell in enumerate(row)
        ]
        line("  ".join(cells))


def size(count: float) -> str:
    """Bytes as a person reads them: ``812 B``, ``4.1 kB``, ``2.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
