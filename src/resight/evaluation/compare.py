"""Reports side by side: which figures differ by more than the choice of queries explains, and which queries did it."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from resight.errors import ResightError
from resight.evaluation.bootstrap import bootstrap, holm, permutation_p
from resight.evaluation.comparison import Change, Compared, Comparison, Difference
from resight.evaluation.kept_report import MEASURES, KeptReport, parts, values
from resight.evaluation.report import Row

# What two figures must share to be compared, and how a person calls it.
_SHARED = {
    "name": "sets",
    "revision": "revisions of the ground truth",
    "selection": "selections of the queries",
    "database": "sizes of the database",
    "distractors": "numbers of distractors",
    "average_precision": "kinds of average precision",
    "junk": "rules for junk",
    "leave_one_out": "rules for leaving the query out",
}


def compare(
    reports: Sequence[KeptReport], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0, changes: int = 10
) -> Comparison:
    """Every report beside the first.

    level: of confidence; 1 - level is also the permutation test's. changes: how many queries to list of each, those
    that changed most.
    Raises ResightError, saying what differs, where the reports are not of the same queries by the same protocol.
    """
    if len(reports) < 2:
        raise ResightError("a comparison needs two reports")
    first, *others = reports
    for other in others:
        _check_alike(first, other)
    found = [_differences(first, other, level, resamples, seed) for other in others]
    found = _corrected(found, 1 - level)
    names = _names(reports)
    return Comparison(
        first=names[0],
        protocol=first.protocol,
        level=level,
        resamples=resamples,
        seed=seed,
        others=tuple(
            Compared(name, tuple(each), *_counts(first, other), _most_changed(first, other, changes))
            for name, each, other in zip(names[1:], found, others, strict=True)
        ),
        notes=tuple(note for report in reports for note in _notes(first, report)),
    )


def _check_alike(first: KeptReport, other: KeptReport) -> None:
    mine, its = asdict(first.protocol), asdict(other.protocol)
    for key, called in _SHARED.items():
        if mine[key] != its[key]:
            raise ResightError(
                f"{first.file} and {other.file} have different {called}, {mine[key]!r} and {its[key]!r}: "
                "their figures cannot be compared"
            )
    asked, its_asked = [[_key(row) for row in report.rows] for report in (first, other)]
    for here, there, file in ((asked, its_asked, other.file), (its_asked, asked, first.file)):
        if lacking := sorted(set(here) - set(there), key=repr):
            raise ResightError(
                f"{file}: {len(lacking)} queries of the other report are not in it, such as {lacking[0][0]}"
            )
    if len(set(asked)) != len(asked) or len(asked) != len(its_asked):
        raise ResightError(f"{first.file} and {other.file}: a query is there twice, and cannot be paired")


def _key(row: Row) -> tuple[Any, ...]:
    return row.query, row.box, row.subset, row.positives


def _paired(first: KeptReport, other: KeptReport) -> list[tuple[Row, Row]]:
    rows = {_key(row): row for row in other.rows}
    return [(row, rows[_key(row)]) for row in first.rows]


def _differences(first: KeptReport, other: KeptReport, level: float, resamples: int, seed: int) -> list[Difference]:
    by_key = {_key(row): row for row in other.rows}
    theirs = {name: figures for name, figures, _ in parts(other)}
    found = []
    for part, figures, rows in parts(first):
        its_rows = tuple(by_key[_key(row)] for row in rows)
        for name, measure in MEASURES.items():
            mine, its = values(measure, figures, rows), values(measure, theirs[part], its_rows)
            if mine is None or its is None:
                continue
            differences = np.subtract(its, mine)
            interval = bootstrap(differences, level=level, resamples=resamples, seed=seed)
            p = permutation_p(differences, resamples=resamples, seed=seed)
            found.append(
                Difference(
                    figure=name,
                    part=part,
                    queries=len(differences),
                    first=float(np.mean(mine)),
                    other=float(np.mean(its)),
                    difference=interval.mean,
                    low=interval.low,
                    high=interval.high,
                    p_sign=interval.p,
                    p=p,
                    adjusted=p,
                    differs=interval.excludes_zero,
                )
            )
    return found


def _corrected(found: list[list[Difference]], alpha: float) -> list[list[Difference]]:
    """With p adjusted over the reports that have the figure, and ``differs`` where that agrees with the interval."""
    tests: dict[tuple[str, str], list[float]] = {}
    for each in found:
        for d in each:
            tests.setdefault((d.figure, d.part), []).append(d.p)
    adjusted = {test: iter(holm(p)) for test, p in tests.items()}
    corrected = []
    for each in found:
        row = []
        for d in each:
            p = next(adjusted[d.figure, d.part])
            row.append(replace(d, adjusted=p, differs=d.differs and p <= alpha))
        corrected.append(row)
    return corrected


def _counts(first: KeptReport, other: KeptReport) -> tuple[int, int]:
    changes = [
        b.average_precision - a.average_precision
        for a, b in _paired(first, other)
        if a.average_precision is not None and b.average_precision is not None
    ]
    return sum(change > 0 for change in changes), sum(change < 0 for change in changes)


def _most_changed(first: KeptReport, other: KeptReport, most: int) -> tuple[Change, ...]:
    found = [
        Change(a.query, a.box, a.subset, a.average_precision, b.average_precision, a.first_positive, b.first_positive)
        for a, b in _paired(first, other)
        if a.average_precision is not None
        and b.average_precision is not None
        and a.average_precision != b.average_precision
    ]
    return tuple(
        sorted(found, key=lambda change: -abs(change.other - change.first))[:most]
    )  # ties: as the set has them


def _names(reports: Sequence[KeptReport]) -> list[str]:
    """The recipes, or where two have one, the files."""
    recipes = [report.protocol.recipe for report in reports]
    return recipes if len(set(recipes)) == len(recipes) else [str(report.file) for report in reports]


def _notes(first: KeptReport, report: KeptReport) -> list[str]:
    notes = [
        f"{report.file}: the recipe's {part} was fitted on {100 * share:.0f} % of these photos"
        for part, share in report.protocol.fitted_share.items()
        if share >= 0.01
    ]
    if report.not_indexed:
        notes.append(f"{report.file}: {len(report.not_indexed)} images are not indexed, counted as not retrieved")
    if report.protocol.ties != first.protocol.ties:
        notes.append(f"{report.file}: of ties, {report.protocol.ties}; in {first.file}, {first.protocol.ties}")
    mine, its = first.protocol.versions, report.protocol.versions
    changed = [f"{name} {mine[name]} and {its[name]}" for name in mine if name in its and mine[name] != its[name]]
    if changed:
        notes.append(f"{first.file} and {report.file}: by different versions: {', '.join(changed)}")
    return notes
