"""Whether recipes work: each made ready, its collection indexed, its queries asked and judged, on a labelled set."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resight.errors import ResightError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.made_ready import Kit, Report, make_ready
from resight.evaluation.protocol import evaluate
from resight.recipes.recipe import Recipe

if TYPE_CHECKING:
    from resight.search.collection import Progress


@dataclass(frozen=True)
class Checked:
    """One recipe on one set.

    mean_average_precision, precision_at_1: fractions. milliseconds: median a query, of describing it, where it is not
        in the database, and searching. bytes_per_image: of the collection on disk. images: indexed.
    queries: asked, with and without an answer.
    fitted_share: of the set's photos, learned from; None where that is not known.
    failure: why there are no figures; "" where there are.
    """

    set: str
    recipe: str
    mean_average_precision: float | None = None
    precision_at_1: float | None = None
    milliseconds: float | None = None
    bytes_per_image: float | None = None
    images: int = 0
    queries: int = 0
    fitted_share: float | None = None
    failure: str = ""


class OutOfTime(ResightError):
    """A time limit was passed."""


def check_recipes(
    names: Sequence[str],
    labelled: LabelledSet,
    kit: Kit,
    *,
    workers: int | None = None,
    report: Report = lambda phase, done, total: None,
) -> Iterator[Checked]:
    """Each recipe, in order, as soon as it is done; what it could not do is its `failure`."""
    with tempfile.TemporaryDirectory(prefix="resight-check-") as folder:
        for place, name in enumerate(names):
            yield check(name, labelled, kit, Path(folder) / str(place), workers=workers, report=report)


def check(
    name: str, labelled: LabelledSet, kit: Kit, into: Path, *, workers: int | None = None, report: Report
) -> Checked:
    """One recipe, by its name, file or folder. into: where it is made ready, see ``make_ready``."""
    told = f"{name}: "
    try:
        recipe = make_ready(
            name, kit, into, workers=workers, report=lambda phase, done, total: report(told + phase, done, total)
        )
        return measure(
            name, recipe, labelled, workers=workers, progress=lambda p: report(told + p.phase, p.done, p.total)
        )
    except ResightError as error:
        return Checked(labelled.name, name, failure=str(error))


def measure(
    name: str,
    recipe: Recipe,
    labelled: LabelledSet,
    *,
    collection: Path | None = None,
    workers: int | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> Checked:
    """The figures of `evaluate`, with the collection in a folder if one is given. Raises as it does."""
    found = evaluate(labelled, recipe, collection=collection, workers=workers, progress=progress)
    images = found.protocol.database - len(found.not_indexed)
    return Checked(
        set=labelled.name,
        recipe=name,
        mean_average_precision=found.figures.mean_average_precision,
        precision_at_1=found.figures.precision_at_1,
        milliseconds=found.costs.total.p50,
        bytes_per_image=found.costs.bytes_on_disk / images if images else None,
        images=images,
        queries=found.protocol.queries,
        fitted_share=max(found.protocol.fitted_share.values(), default=None),
    )


def within(seconds: float | None, report: Report) -> Report:
    """``report`` that raises OutOfTime when it is called more than so many seconds after now; None for never.

    So what takes too long ends where it next tells of its progress, and leaves its files whole.
    """
    if seconds is None:
        return report
    end = time.monotonic() + seconds

    def limited(phase: str, done: int, total: int | None) -> None:
        if time.monotonic() > end:
            raise OutOfTime(f"not done in {seconds:g} s: it was {phase}")
        report(phase, done, total)

    return limited


def part_of(names: Sequence[str], part: str) -> tuple[str, ...]:
    """Every N-th of the names from the K-th on, for ``part`` "K/N", so that parts 0/N to N−1/N are all of them.

    K is any number, also hexadecimal with 0x before it, and counts modulo N: a day of the year, or a commit.
    Raises ResightError for what is not of this form.
    """
    text, slash, parts = part.partition("/")
    try:
        number = int(text, 16) if text.lower().startswith("0x") else int(text)
        count = int(parts)
    except ValueError:
        number = count = -1
    if not slash or number < 0 or count < 1:
        raise ResightError(f"{part!r} is no part: write K/N, such as 0/7, of which there are N")
    return tuple(names[number % count :: count])
