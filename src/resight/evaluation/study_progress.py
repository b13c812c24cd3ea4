"""How mAP went up over the years (the survey's Fig. 10): reports, beside the figures that papers published."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from resight.errors import RecipeError, ResightError
from resight.evaluation.kept_report import KeptReport
from resight.evaluation.plot import Series, markdown, plot
from resight.evaluation.study_files import write_study
from resight.recipes.recipe import load_recipe, recipe_names

SURVEY = "survey"
"""The name of the figures of the survey's Tables 2 and 3, which come with resight."""

_COLUMNS = ("set", "system", "year", "map", "source")


@dataclass(frozen=True)
class Milestone:
    """One system's mAP on one set, a fraction. source: who published it, or the report that measured it."""

    set: str
    system: str
    year: int
    mean_average_precision: float
    published: bool
    source: str


@dataclass(frozen=True)
class Progress:
    """Milestones, by set and year."""

    milestones: tuple[Milestone, ...]

    def table(self) -> str:
        """Markdown: a row for each; mAP in per cent."""
        rows = [
            (
                m.set,
                str(m.year),
                m.system,
                f"{100 * m.mean_average_precision:.1f}",
                "published" if m.published else "here",
            )
            for m in self.milestones
        ]
        return markdown((("set", "year", "system", "mAP", "measured"), *rows))

    def plot(self) -> str:
        """SVG: for each set the best mAP until each year, measured here, and, broken and hollow, published."""
        drawn: dict[tuple[str, bool], list[tuple[float, float]]] = {}
        for m in self.milestones:
            points = drawn.setdefault((m.set, m.published), [])
            best = max([m.mean_average_precision, *(y for _, y in points)])
            if points and points[-1][0] == m.year:
                points.pop()
            points.append((m.year, best))
        sets = list(dict.fromkeys(m.set for m in self.milestones))
        series = [
            Series(f"{name}, published" if published else name, sets.index(name), published, tuple(points))
            for (name, published), points in drawn.items()
        ]
        years = [m.year for m in self.milestones]
        ticks = [(float(year), str(year)) for year in range(min(years), max(years) + 1)]
        return plot(series, ticks, across="year", up="best mAP, %", joined=True)

    def write(self, into: Path) -> None:
        """Write table.md, results.csv, results.json and plot.svg into a folder."""
        rows = {"results": (Milestone, self.milestones)}
        write_study(into, "progress", rows, table=self.table(), plots={"plot": self.plot()})


def study_progress(
    reports: Sequence[KeptReport], published: Sequence[Milestone] = (), years: Mapping[str, int] | None = None
) -> Progress:
    """Reports in the order of their systems' years, and the published figures on the same sets; without reports all.

    years: by recipe, of those that do not come with resight, or to set right; else the newest year in its source.
    Raises ResightError where reports of one set are not by one protocol, a year is unknown, or nothing is left.
    """
    first: dict[str, KeptReport] = {}
    found = []
    for report in reports:
        p = report.protocol
        other = first.setdefault(p.name, report)
        for key in ("revision", "selection", "database", "average_precision"):
            mine, its = asdict(p)[key], asdict(other.protocol)[key]
            if mine != its:
                raise ResightError(
                    f"{report.file} and {other.file} are not by one protocol: their {key.replace('_', ' ')} is "
                    f"{mine!r} and {its!r}"
                )
        score = report.figures.mean_average_precision
        if score is None:
            raise ResightError(f"{report.file}: has no mAP")
        found.append(Milestone(p.name, p.recipe, _year(p.recipe, years or {}), score, False, str(report.file)))
    found += [m for m in published if m.set in first or not reports]
    if not found:
        raise ResightError("no report and no published figure: name at least one")
    found.sort(key=lambda m: (m.set, m.year, m.published, m.mean_average_precision))
    return Progress(tuple(found))


def read_published(file: str | Path) -> list[Milestone]:
    """Figures from a CSV with the header ``set,system,year,map,source``, mAP in per cent; ``survey`` for its Tables.

    Raises ResightError, naming the file and the line, for what is malformed.
    """
    try:
        if file == SURVEY:
            text = (resources.files("resight.evaluation") / "published.csv").read_text(encoding="utf-8")
        else:
            text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ResightError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ResightError(f"{file}: is no UTF-8 text") from error
    rows = csv.reader(text.splitlines())
    if tuple(next(rows, ())) != _COLUMNS:
        raise ResightError(f"{file}, line 1: the header is not {','.join(_COLUMNS)}")
    found = []
    for row in rows:
        where = f"{file}, line {rows.line_num}"
        if len(row) != len(_COLUMNS):
            raise ResightError(f"{where}: {len(row)} cells, not {len(_COLUMNS)}")
        name, system, year, score, source = row
        try:
            milestone = Milestone(name, system, int(year), float(score) / 100, True, source)
        except ValueError as error:
            raise ResightError(f"{where}: {year!r} or {score!r} is no number") from error
        if not 0 <= milestone.mean_average_precision <= 1:
            raise ResightError(f"{where}: mAP is in per cent, 0 to 100, not {score}")
        found.append(milestone)
    return found


def year_of(source: str) -> int | None:
    """The newest year that a recipe's source names, since which the system could be; None where it names none."""
    years = re.findall(r"(?<![\d.])(?:19|20)\d\d(?!\d|\.\d)", source)  # arXiv 1908.0001 is no year
    return max(map(int, years), default=None)


def _year(recipe: str, years: Mapping[str, int]) -> int:
    if recipe in years:
        return years[recipe]
    year = year_of(load_recipe(recipe).source) if recipe in recipe_names() else None
    if year is None:
        raise RecipeError(f"the year of {recipe} is not known: give --year {recipe}=YEAR")
    return year
