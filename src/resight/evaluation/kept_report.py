"""Reports read back from the JSON that `resight evaluate` and `resight score` write."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from resight.errors import ResightError
from resight.evaluation.conditions import Protocol
from resight.evaluation.figures import Figures
from resight.evaluation.report import Result, Row
from resight.parsing import parse_json

_ROUNDING = 1e-9


@dataclass(frozen=True)
class KeptReport:
    """What of a report another can be compared by. file: where it was read from."""

    file: Path
    protocol: Protocol
    figures: Figures
    subsets: Mapping[str, Figures]
    not_indexed: Mapping[str, str]
    rows: tuple[Row, ...]


@checked(frozen=True)
class _Shape:
    protocol: Protocol
    figures: Figures
    subsets: Mapping[str, Figures]
    rows: tuple[Row, ...]
    not_indexed: Mapping[str, str]


def read_report(path: str | Path) -> KeptReport:
    """A report from its file.

    Raises ResightError, naming the file and the place, where it is no report, or its rows do not give its figures.
    """
    file = Path(path)
    try:
        raw = parse_json(file.read_bytes())
    except OSError as error:
        raise ResightError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ResightError(f"{file}: is no JSON, as `resight evaluate --json` prints: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != "resight-report":
        raise ResightError(f"{file}: is no report: make one with `resight evaluate SET --json > FILE`")
    if raw.get("version") != 1:
        raise ResightError(f"{file}: is a report of version {raw.get('version')}, and this resight reads version 1")
    try:
        shape = TypeAdapter(_Shape).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = " → ".join(str(step) for step in first["loc"])
        raise ResightError(f"{file}: {where}: {first['msg']}; make it anew with this version") from error
    kept = KeptReport(file, shape.protocol, shape.figures, shape.subsets, shape.not_indexed, shape.rows)
    _check(kept)
    return kept


def _answered(value: Callable[[Row], float | None]) -> Callable[[Row], float | None]:
    return lambda row: value(row) if row.positives else None


def _first(row: Row, k: int) -> float | None:
    """Positives among the first k; None where junk, or a shorter row, hides where they end."""
    if len(row.results) < k or any(result.verdict == "junk" for result in row.results):
        return None
    return sum(_is_match(result) for result in row.results[:k])


def _is_match(result: Result) -> bool:
    return result.verdict == "positive"


def _precision_at_10(row: Row) -> float | None:
    found = _first(row, 10)
    return None if found is None else found / 10


def _ns(row: Row) -> float | None:
    found = _first(row, 3)
    return None if found is None else 1 + found


@dataclass(frozen=True)
class Measure:
    """A figure that is a mean over queries.

    of: of a report's figures. each: of one query; None where it has none, or its row does not tell.
    percent: whether it is shown so. answered: whether it is about queries with an answer, or about those without.
    """

    of: Callable[[Figures], float | None]
    each: Callable[[Row], float | None]
    percent: bool = True
    answered: bool = True


MEASURES: Final[Mapping[str, Measure]] = {
    "mAP": Measure(lambda f: f.mean_average_precision, lambda row: row.average_precision),
    "P@1": Measure(lambda f: f.precision_at_1, _answered(lambda row: float(row.first_positive == 1))),
    "P@10": Measure(lambda f: f.precision_at_10, _answered(_precision_at_10)),
    "N-S": Measure(lambda f: f.ns_score, _answered(_ns), percent=False),
    "found": Measure(
        lambda f: f.acceptance.found, _answered(lambda row: float(row.accepted > 0 and row.first_positive == 1))
    ),
    "accepted": Measure(lambda f: f.acceptance.recall, _answered(lambda row: row.accepted_right / row.positives)),
    "rejected": Measure(
        lambda f: f.acceptance.rejected,
        lambda row: None if row.positives else float(row.accepted == 0),
        answered=False,
    ),
}
"""The figures of a report that its rows tell query by query, by the names that its table gives them."""


def values(measure: Measure, figures: Figures, rows: tuple[Row, ...]) -> list[float] | None:
    """The measure of each of the rows that it is about; None where the report has no such figure or does not tell."""
    if measure.of(figures) is None:
        return None
    found = [measure.each(row) for row in rows if bool(row.positives) is measure.answered]
    told = [value for value in found if value is not None]
    return told if len(told) == len(found) else None


def parts(report: KeptReport) -> list[tuple[str, Figures, tuple[Row, ...]]]:
    """Name, figures and rows of the whole set, then of each subset that rows name."""
    of = {name: tuple(row for row in report.rows if row.subset == name) for name in report.subsets}
    return [
        ("all", report.figures, report.rows),
        *((name, figures, of[name]) for name, figures in report.subsets.items() if of[name]),
    ]


def _check(report: KeptReport) -> None:
    for part, figures, rows in parts(report):
        for name, measure in MEASURES.items():
            told, stated = values(measure, figures, rows), measure.of(figures)
            if told is None or stated is None:
                continue
            if not told or abs(math.fsum(told) / len(told) - stated) > _ROUNDING:
                raise ResightError(
                    f"{report.file}: its rows do not give its {name} of {part}: it was edited or cut short; "
                    "make it anew"
                )
