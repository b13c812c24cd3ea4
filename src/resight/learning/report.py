"""What a training did, as one HTML file that needs nothing else: curves, figures before and after, queries."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resight.errors import ResightError
from resight.evaluation.page import write_page
from resight.evaluation.report import Report
from resight.learning.curves import Points, curves
from resight.learning.log import read_log
from resight.learning.settings import flat
from resight.search.html import escape, head, pairs, table

_PLACE = frozenset({"epoch", "step", "part"})
_FIGURES = {
    "mean_average_precision": "mAP",
    "precision_at_1": "P@1",
    "precision_at_10": "P@10",
    "recall_at_10": "R@10",
    "recall_at_100": "R@100",
}


def write_report(path: Path, facts: Mapping[str, Any], runs: Mapping[str, Path], after: Report | None) -> None:
    """Write the page of a training.

    facts: of ``training.json``. runs: folder of each phase, by name. after: of what is held out, whose worst and best
    queries are shown with their pictures. Raises ResightError where it cannot be written.
    """
    shown = ""
    if after is not None:
        write_page(after, path)
        shown = path.read_text(encoding="utf-8").partition("<main>\n")[2].partition("</main>")[0]
    try:
        path.write_text("".join(_page(facts, runs, shown)), encoding="utf-8", errors="replace")
    except OSError as error:
        raise ResightError(f"cannot write {path}: {error.strerror}; make room, then --resume") from error


def _page(facts: Mapping[str, Any], runs: Mapping[str, Path], shown: str) -> Iterator[str]:
    title = f"{facts['recipe']} trained on {facts['set']['name']}"
    yield head(title, "resight.evaluation", "svg { max-width: 100%; height: auto; }\n")
    yield f"<header><h1>{escape(title)}</h1></header>\n<main>\n"
    if "sets" in facts:
        yield f"<h2>Set by set</h2>\n{_set_by_set(facts['sets'])}"
    else:
        yield f"<h2>Before and after</h2>\n{_before_and_after(facts)}"
    for name, folder in runs.items():
        yield f"<h2>Curves: {escape(name)}</h2>\n{_outcome(facts['phases'][name])}"
        yield from _curves(read_log(folder / "log.csv"))
    sets = [("set", _described(facts["set"])), ("validation", _described(facts["validation"] or {}))]
    yield f"<h2>What it was trained on</h2>\n{pairs(sets)}{shown}"
    yield f"<h2>Settings</h2>\n{pairs([(key, str(value)) for key, value in flat(facts['settings'])])}"
    yield f"<h2>Versions</h2>\n{pairs(list(facts['versions'].items()))}</main>\n</body>\n</html>\n"


def _before_and_after(facts: Mapping[str, Any]) -> str:
    before, after = facts["before"], facts["after"]
    if after is None:
        return '<p class="soft">Nothing was held out, so nothing is known of how well it does.</p>\n'
    rows, why = [("per cent", *_FIGURES.values())], ""
    for when, figures in (("before", before), ("after", after)):
        if "none" in figures:
            why += f'<p class="soft">Nothing is known of it {when}: {escape(figures["none"])}.</p>\n'
            continue
        rows.append((when, *(_percent(figures[key]) for key in _FIGURES)))
    return (
        f"{table(rows, 'Before and after')}"
        '<p class="soft">Of what is held out, whose objects were not learned from, by the recipe as it searches.</p>\n'
        f"{why}"
    )


def _set_by_set(sets: Mapping[str, Any]) -> str:
    heads = {"before": "before", "after": "after", "own": "after, as the set"}
    rows = [("mAP, per cent", *heads.values(), "learned from", "validated on")]
    for name, facts in sets.items():
        figures = (_percent((facts[when] or {}).get("mean_average_precision")) for when in heads)
        rows.append((name, *figures, *(_described(facts[part] or {}) for part in ("learned", "validation"))))
    return (
        f"{table(rows, 'Set by set')}"
        '<p class="soft">Of what is held out of each set, by the recipe as it searches by default, and by the adapter '
        "that is called as the set.</p>\n"
    )


def _outcome(outcome: Mapping[str, Any]) -> str:
    said = f"{outcome['epochs']} epochs, {outcome['steps']:,} steps"
    if outcome["best"] is not None:
        said += f"; the best validation, {outcome['best']:.4g}, after epoch {outcome['best_epoch']}"
    return f'<p class="soft">{said}{"; ended early" if outcome["stopped"] else ""}.</p>\n'


def _curves(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """What says most first: validation, then the loss."""
    for part in ("validation", "train"):
        own = [row for row in rows if row["part"] == part]
        names = dict.fromkeys(name for row in own for name in row if name not in _PLACE)
        for name in sorted(names, key=lambda name: name != "loss"):
            points: Points = [(float(row["step"]), float(row[name])) for row in own if name in row]
            if not any(math.isfinite(y) for _, y in points):  # as of a gradient in 16 bits
                continue
            label = name if part == "train" else f"{name}, validation"
            yield f"<h3>{escape(label)}</h3>\n{curves({label: points}, across='step', up=label)}"


def _described(facts: Mapping[str, Any]) -> str:
    if not facts:
        return "none"
    counts = [f"{facts[key]:,} {key}" for key in ("photos", "classes", "database", "queries") if key in facts]
    chosen = f" ({facts['selection']})" if facts["selection"] else ""
    return f"{facts['name']}{chosen}: {', '.join(counts)}; revision {facts['revision'][:12] or 'unknown'}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
