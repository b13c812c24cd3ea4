"""What a study of specialised and merged networks found: mAP on each set, and what is lost against its specialist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resight.evaluation.plot import Series, markdown, plot
from resight.evaluation.study_files import write_study
from resight.evaluation.table import Table
from resight.files import output_file
from resight.search.html import escape, head, pairs, table


@dataclass(frozen=True)
class JointResult:
    """mAP in [0, 1] of a network's searches for what is held out of a set.

    network: by what it learned: a set's name, "all sets", or "untrained". adapter: by which projection it searches,
    "joint", a set's name, or "none". chosen: whether that is the one which is called as the set asked for, so that
    whoever searches has named the set. loss: what is lost against the set's specialist, the network that learned that
    set alone; below 0 where more is found, None of the specialist itself.
    """

    network: str
    adapter: str
    chosen: bool
    set: str
    mean_average_precision: float
    loss: float | None


def with_losses(results: Sequence[JointResult]) -> tuple[JointResult, ...]:
    """The same, with losses against what each set's specialist finds of it."""
    best = {r.set: r.mean_average_precision for r in results if r.network == r.set}
    return tuple(r if r.network == r.set else replace(r, loss=best[r.set] - r.mean_average_precision) for r in results)


@dataclass(frozen=True)
class JointStudy:
    """Every figure, and all they depend on."""

    protocol: Mapping[str, Any]
    results: tuple[JointResult, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the figures should know."""
        found: tuple[str, ...] = tuple(self.protocol["warnings"])
        return found

    @property
    def _rows(self) -> dict[str, dict[str, JointResult]]:
        """By what a searcher does with which network, the result on each set."""
        rows: dict[str, dict[str, JointResult]] = {}
        for r in self.results:
            how = r.network if r.network in ("untrained", "all sets") else f"{r.network} alone"
            rows.setdefault(f"{how}, searched as the set" if r.chosen else how, {})[r.set] = r
        return rows

    @property
    def grid(self) -> Table:
        """A row a network and way to search, a column a set: mAP in per cent, and the loss against its specialist."""
        sets = list(dict.fromkeys(r.set for r in self.results))
        rows = [
            (how, *(_cell(own[name]) for name in sets), f"{100 * _mean(own):.1f}") for how, own in self._rows.items()
        ]
        return ("learned", *sets, "mean"), *rows

    def table(self) -> str:
        """``grid`` as Markdown."""
        return markdown(self.grid)

    def plot(self) -> str:
        """SVG: mAP of each row on each set; hollow where the set was named in searching."""
        sets = list(dict.fromkeys(r.set for r in self.results))
        networks = list(dict.fromkeys(r.network for r in self.results))
        series = [
            Series(
                how,
                networks.index(next(iter(own.values())).network),
                next(iter(own.values())).chosen,
                tuple((float(place), own[name].mean_average_precision) for place, name in enumerate(sets)),
            )
            for how, own in self._rows.items()
        ]
        return plot(series, list(enumerate(sets)), across="set", up="mAP, %", joined=False)

    def write(self, into: Path) -> None:
        """Write table.md, results.csv, results.json, plot.svg and report.html into a folder."""
        write_study(
            into,
            "joint",
            {"results": (JointResult, self.results)},
            table=self.table(),
            plots={"plot": self.plot()},
            protocol=self.protocol,
            warnings=self.warnings,
        )
        with output_file(into / "report.html") as partial:
            partial.write_text(self._page(), encoding="utf-8", errors="replace")

    def _page(self) -> str:
        told = "".join(f"<p><b>{escape(warning)}</b></p>\n" for warning in self.warnings)
        facts = pairs([(name, str(value)) for name, value in self.protocol.items() if name != "warnings"])
        return (
            f"{head('Specialised and merged', 'resight.evaluation', 'svg { max-width: 100%; height: auto; }')}"
            f"<header><h1>Specialised and merged</h1></header>\n<main>\n{told}<h2>mAP, per cent</h2>\n"
            f"{table(self.grid, 'mAP')}"
            '<p class="soft">In brackets what is lost (−) or gained (+) against the network that learned the set '
            "alone.</p>\n"
            f"{self.plot()}<h2>Protocol</h2>\n{facts}</main>\n</body>\n</html>\n"
        )


def _cell(r: JointResult) -> str:
    lost = "" if r.loss is None else f" ({0.0 - 100 * r.loss:+.1f})".replace("-", "−")
    return f"{100 * r.mean_average_precision:.1f}{lost}"


def _mean(own: Mapping[str, JointResult]) -> float:
    return sum(r.mean_average_precision for r in own.values()) / len(own)
