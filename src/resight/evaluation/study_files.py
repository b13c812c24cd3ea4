"""The files that every study leaves: for people to read, for programs, and plots."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any


def write_study(
    into: Path,
    study: str,
    rows: Mapping[str, tuple[type, Sequence[Any]]],
    *,
    table: str,
    plots: Mapping[str, str],
    protocol: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Write table.md, results.json, NAME.csv of each kind of row and NAME.svg of each plot into a folder.

    rows: by name, a dataclass and its values. table: Markdown, before which the protocol and the warnings are said.
    """
    into.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"study": study} | ({} if protocol is None else {"protocol": protocol})
    facts |= {name: [asdict(value) for value in values] for name, (_, values) in rows.items()}
    (into / "results.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for name, (kind, values) in rows.items():
        with (into / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(field.name for field in fields(kind))
            writer.writerows(astuple(value) for value in values)
    plain = [f"{name}: {value}" for name, value in (protocol or {}).items() if isinstance(value, str)]
    said = "".join(f"{line}  \n" for line in [*plain, *warnings])
    (into / "table.md").write_text(f"{said}\n{table}\n" if said else f"{table}\n", encoding="utf-8")
    for name, drawing in plots.items():
        (into / f"{name}.svg").write_text(drawing, encoding="utf-8")
