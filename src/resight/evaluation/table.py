"""A report as rows of text: what the terminal prints and the page sets as tables."""

from collections.abc import Sequence

from resight.evaluation.conditions import Costs, Protocol, Spread
from resight.evaluation.figures import Figures

Table = tuple[tuple[str, ...], ...]


def ranking_table(lines: Sequence[tuple[str, Figures]]) -> Table:
    """A header, the whole set, and each subset: how good the order is."""
    head = ("", "queries", "mAP", "P@1", "P@10", "P@5 rev.", "P@10 rev.", "R@10", "R@100", "first", "N-S")
    rows = [
        (
            name,
            str(f.queries),
            _percent(f.mean_average_precision),
            _percent(f.precision_at_1),
            _percent(f.precision_at_10),
            _percent(f.revisited_precision_at_5),
            _percent(f.revisited_precision_at_10),
            _percent(f.recall_at_10),
            _percent(f.recall_at_100),
            _number(f.median_first, "g"),
            _number(f.ns_score, ".3f"),
        )
        for name, f in lines
    ]
    return _without_empty_columns((head, *rows))


def acceptance_table(lines: Sequence[tuple[str, Figures]]) -> Table:
    """A header, the whole set, and each subset: how well a match is told from no match."""
    head = ("", "found", "missed", "misled", "precision", "recall", "no answer", "rejected", "false accepts")
    rows = [
        (
            name,
            _percent(f.acceptance.found),
            _percent(f.acceptance.missed),
            _percent(f.acceptance.misled),
            _percent(f.acceptance.precision),
            _percent(f.acceptance.recall),
            str(f.unanswerable),
            _percent(f.acceptance.rejected),
            _number(f.acceptance.false_accepts, ".2f"),
        )
        for name, f in lines
    ]
    return _without_empty_columns((head, *rows))


def protocol_lines(protocol: Protocol, not_indexed: int) -> Table:
    """Name and value of everything the figures depend on."""
    p = protocol
    pairs = [
        ("set", f"{p.name}, ground truth {p.revision[:12]}" + (f"; {p.selection}" if p.selection else "")),
        ("its protocol", p.text),
        (
            "database",
            f"{p.database} images" + (f", {p.distractors} of them distractors" if p.distractors else ""),
        ),
        ("not indexed", f"{not_indexed}, counted as not retrieved" if not_indexed else ""),
        (
            "queries",
            f"{p.queries}, {p.unanswerable} of them without an answer and outside mAP, P, R and first",
        ),
        ("query images", _query_images(p.queries, p.boxed, p.stored)),
        ("leave one out", "yes: a query is removed from its own ranking" if p.leave_one_out else "no"),
        ("average precision", p.average_precision),
        ("junk", p.junk),
        ("ties", p.ties),
        ("recipe", f"{p.recipe} ({p.fingerprint[:12]})"),
        *((f"{part} fitted on", text + _among(p.fitted_share.get(part))) for part, text in p.fitted_on.items()),
        ("versions", ", ".join(f"{name} {version}" for name, version in p.versions.items())),
    ]
    return tuple((name, value) for name, value in pairs if value)


def cost_lines(costs: Costs) -> Table:
    """Name and value of what the run took."""
    per_image = costs.milliseconds_per_image
    indexing = f"{costs.index_seconds:.1f} s" + (
        f" for {costs.indexed_now} images, {per_image:.0f} ms each" if per_image is not None else ", all indexed before"
    )
    stages = (
        ("describe", costs.describe),
        ("filter", costs.filter),
        ("verify", costs.verify),
        ("total", costs.total),
    )
    search = ", ".join(f"{name} {_spread(spread)}" for name, spread in stages if spread is not None)
    memory = [f"{costs.peak_memory / 2**20:.0f} MiB"] if costs.peak_memory is not None else []
    if costs.peak_worker_memory:
        memory.append(f"largest worker {costs.peak_worker_memory / 2**20:.0f} MiB")
    pairs = [
        ("indexing", indexing),
        ("a search, ms", f"{search} (median / 95th percentile)"),
        ("comparisons", f"{costs.comparisons:,.0f} a query"),
        ("on disk", f"{costs.bytes_on_disk / 2**20:.1f} MiB"),
        ("peak memory", ", ".join(memory)),
        ("machine", f"{costs.cpus} CPUs, {costs.platform}"),
    ]
    return tuple((name, value) for name, value in pairs if value)


def align(table: Table, *, numbers: bool = True) -> str:
    """Columns padded to their widest cell; all but the first to the right where they are numbers."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if numbers and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def _without_empty_columns(table: Sequence[tuple[str, ...]]) -> Table:
    columns = [c for c in zip(*table, strict=True) if c[0] == "" or any(cell != "–" for cell in c[1:])]
    return tuple(zip(*columns, strict=True))


def _percent(value: float | None) -> str:
    return _number(None if value is None else 100 * value, ".1f")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _spread(spread: Spread) -> str:
    return f"{spread.p50:.0f} / {spread.p95:.0f}"


def _among(share: float | None) -> str:
    return "" if share is None else f"; {100 * share:.0f} % of this database were among them"


def _query_images(queries: int, boxed: int, stored: int) -> str:
    text = f"{boxed} cropped to a box, {queries - boxed} whole" if boxed else "whole, none cropped"
    return f"{text}; {stored} by their stored description" if stored else text
