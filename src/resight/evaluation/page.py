"""A report as one HTML file that needs nothing else: figures, protocol, the worst and the best queries."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from resight.errors import ImageError
from resight.evaluation.report import Report, Result, Row
from resight.evaluation.table import acceptance_table, cost_lines, protocol_lines, ranking_table
from resight.files import output_file
from resight.images.apart import read_image_apart
from resight.search.html import escape, gone, head, pairs, picture, table

SIDE = 240  # the longest side of a picture in pixels

_ORDER = (
    "mAP, precision (P) and recall (R) in per cent, means over the queries with an answer. "
    "P@5 and P@10 rev. stop at the last positive where that is sooner; first: median rank of the first match."
)
_ACCEPTANCE = (
    "In per cent. Queries with an answer: the first result is accepted and right (found), nothing is "
    "accepted (missed), only wrong ones are accepted (misled); accepted results that are right (precision), "
    "right ones that are accepted (recall). Queries without: nothing is accepted (rejected), mean number "
    "accepted (false accepts)."
)
_VERDICTS = {"positive": "match", "wrong": "wrong", "junk": "junk"}


def write_page(report: Report, path: str | Path, worst: int = 12, best: int = 6) -> None:
    """Write the report at `path`, replacing what is there.

    worst, best: how many queries to show of those with the lowest and highest average precision, and, with
    ``worst``, of those without an answer for which most was accepted. Pictures are read from where the
    report's set was; one that is gone or broken is said to be so in its place. Memory is bounded by one
    picture.
    Raises ResightError if the file cannot be written.
    """
    with output_file(Path(path)) as partial, partial.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(_page(report, worst, best))


def _page(report: Report, worst: int, best: int) -> Iterator[str]:
    title = f"{report.protocol.recipe} on {report.protocol.name}"
    yield head(title, "resight.evaluation") + (
        f"<header><h1>{escape(title)}</h1></header>\n<main>\n"
        f"<h2>Order of the results</h2>\n{table(ranking_table(report.lines), 'Order of the results')}"
        f'<p class="soft">{_ORDER}</p>\n'
        f"<h2>Match or no match</h2>\n{table(acceptance_table(report.lines), 'Match or no match')}"
        f'<p class="soft">{_ACCEPTANCE}</p>\n'
        f"<h2>Protocol</h2>\n{pairs(protocol_lines(report.protocol, len(report.not_indexed)))}"
        f"<h2>Cost</h2>\n{pairs(cost_lines(report.costs))}"
    )
    if report.not_indexed:
        yield f"<h2>Not indexed</h2>\n{pairs(tuple(report.not_indexed.items()))}"
    for heading, rows in _chosen(report, worst, best):
        yield f"<h2>{heading}</h2>\n"
        for row in rows:
            yield from _article(report, row)
    yield "</main>\n</body>\n</html>\n"


def _chosen(report: Report, worst: int, best: int) -> Iterator[tuple[str, Sequence[Row]]]:
    """Headings with their rows, none of them empty and no row twice. Ties keep the order of the queries."""
    scored = sorted(
        ((row.average_precision, place) for place, row in enumerate(report.rows) if row.average_precision is not None)
    )
    low = [place for ap, place in scored if ap < 1][:worst]
    high = [place for _, place in sorted(scored, key=lambda pair: (-pair[0], pair[1])) if place not in low][:best]
    fooled = [row for row in report.rows if not row.positives and row.accepted]
    if low:
        yield "Lowest average precision", [report.rows[place] for place in low]
    if worst and fooled:
        yield "No answer, yet accepted", sorted(fooled, key=lambda row: -row.accepted)[:worst]
    if high:
        yield "Highest average precision", [report.rows[place] for place in high]


def _article(report: Report, row: Row) -> Iterator[str]:
    yield (
        f'<article>\n<figure class="asked">{_picture(report, row.query, f"Query {row.query}", row.box)}'
        f"<figcaption><h3>{escape(row.query)}</h3>{_object(report, row.query)}</figcaption></figure>\n<div>\n"
        f'<p class="facts">{_facts(row)}</p>\n<ol class="results">\n'
    )
    rank = 0
    for result in row.results:
        rank += result.verdict != "junk"
        yield _entry(report, result, rank)
    yield "</ol>\n</div>\n</article>\n"


def _facts(row: Row) -> str:
    if row.average_precision is None:
        facts = ["no positive in the database"]
    else:
        first = "no match was retrieved" if row.first_positive is None else f"first match at rank {row.first_positive}"
        facts = [
            f"AP {100 * row.average_precision:.1f}",
            first,
            f"{row.retrieved} of {row.positives} positives ranked",
        ]
    facts.append(f"{row.accepted} accepted, {row.accepted_right} of them right" if row.accepted else "none accepted")
    if row.subset is not None:
        facts.append(f"subset {escape(row.subset)}")
    return " · ".join(facts)


def _entry(report: Report, result: Result, rank: int) -> str:
    place = "removed" if result.verdict == "junk" else str(rank)
    mark = " · accepted" if result.accepted else ""
    inliers = "" if result.inliers is None else f" · {result.inliers} inliers"
    name = Path(result.path).name
    return (
        f'<li class="{result.verdict}"><figure>{_picture(report, result.path, f"Result {name}", None)}'
        f"<figcaption><b>{place} {_VERDICTS[result.verdict]}</b>{mark}<br>{result.score:.3f}{inliers}<br>"
        f'<span title="{escape(result.path)}">{escape(name)}</span>{_object(report, result.path)}'
        "</figcaption></figure></li>\n"
    )


def _object(report: Report, path: str) -> str:
    return f"<div>{escape(report.groups[path])}</div>" if path in report.groups else ""


def _picture(report: Report, path: str, alt: str, box: tuple[float, float, float, float] | None) -> str:
    try:
        image = read_image_apart(os.path.normpath(Path(report.root, path)), max_side=SIDE)
    except ImageError as error:
        return gone(error.reason)
    return picture(image, SIDE, alt, over=_frame(box, image.size) if box else "")


def _frame(box: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    """The asked part, placed in per cent of the picture so that it scales with it."""
    x1, y1, x2, y2 = box
    sides = zip(("left", "top", "width", "height"), (x1, y1, x2 - x1, y2 - y1), size * 2, strict=True)
    style = ";".join(f"{name}:{100 * length / whole:.3f}%" for name, length, whole in sides)
    return f'<span class="box" style="{style}"></span>'
