"""Search results as one HTML file that needs nothing else: no script, no network, no other file.

Each result stands beside the query with its agreeing points joined by lines, or, at a tick, has the query
laid over it by the homography that was found. Pictures are embedded once and reused by reference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from resight.errors import ImageError
from resight.files import output_file
from resight.images.apart import read_image_apart
from resight.images.image import Image
from resight.search.drawing import SIDE, Box, Pane, define, overlay, pair, query_box
from resight.search.html import escape, head
from resight.search.ranking import Evidence, Ranking

if TYPE_CHECKING:
    from resight.search.collection import Collection, Timing


@dataclass(frozen=True, eq=False)
class ShownExample:
    """One of a query's pictures.

    query: what the user asked with: a path, ``id:7``, ``-``.
    picture: its pixels, at any reduced size, or None where they cannot be had any more.
    box: (x1, y1, x2, y2) in pixels of the upright original, or None for the whole picture.
    weight: below 0 where the user wants less like it.
    """

    query: str
    picture: Image | None
    box: Box | None
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class QueryResult:
    """One answered query: query, picture and box of its first example as in ``ShownExample``; its further ones."""

    query: str
    picture: Image | None
    box: Box | None
    ranking: Ranking
    timing: "Timing"
    further: tuple[ShownExample, ...] = ()

    @property
    def examples(self) -> tuple[ShownExample, ...]:
        """All, as ``Evidence.example`` counts them."""
        return (ShownExample(self.query, self.picture, self.box), *self.further)


def write_results_page(path: str | Path, collection: "Collection", results: Sequence[QueryResult]) -> None:
    """Write `results` as one HTML file at `path`, replacing what is there.

    Memory is bounded by one result's pictures. Where a picture is gone or has changed since it was indexed,
    the page says so in its place. Raises ResightError if the file cannot be written.
    """
    with output_file(Path(path)) as partial, partial.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(_page(collection, results))


def _page(collection: "Collection", results: Sequence[QueryResult]) -> Iterator[str]:
    title = results[0].query if len(results) == 1 else f"{len(results)} queries"
    yield head(title, "resight.search") + (
        '<header class="bar"><h1>Search results</h1>\n<fieldset><legend class="hidden">Show</legend>\n'
        '<label><input type="checkbox" id="show-lines" checked> matching points</label>\n'
        '<label><input type="checkbox" id="show-outline" checked> outline</label>\n'
        '<label><input type="checkbox" id="show-over"> lay the query over the result '
        '<span class="hint">(point at a picture to compare)</span></label>\n'
        "</fieldset></header>\n<main>\n"
    )
    if len(results) > 1:
        yield '<nav aria-label="Queries"><ol>\n'
        for number, result in enumerate(results, 1):
            found = _found(result.ranking)
            yield f'<li><a href="#q{number}">{escape(result.query)}</a> – {found}</li>\n'
        yield "</ol></nav>\n"
    embedded: set[str] = set()
    for number, result in enumerate(results, 1):
        yield from _section(collection, result, number, embedded)
    yield (
        f"</main>\n<footer>{len(collection):,} pictures, recipe {escape(collection.recipe.name)}, "
        f"fingerprint <code>{escape(collection.fingerprint)}</code></footer>\n</body>\n</html>\n"
    )


def _section(collection: "Collection", result: QueryResult, number: int, embedded: set[str]) -> Iterator[str]:
    ranking, accepted = result.ranking, result.ranking.accepted
    panes = [_pane(f"query{number}{f'-{i}' if i else ''}", e.picture) for i, e in enumerate(result.examples)]
    for pane, example in zip(panes, result.examples, strict=True):
        if example.picture is not None:
            yield define(pane, example.picture)
    query = panes[0]
    took = result.timing.describe + result.timing.filter + result.timing.verify
    yield (
        f'<section aria-labelledby="q{number}">\n<div class="query">\n'
        f'<svg viewBox="0 0 {query.width:.1f} {query.height:.1f}" role="img" '
        f'aria-label="The query: {escape(result.query)}">{query.use()}{query_box(query, result.box)}</svg>\n'
        f'<div><h2 id="q{number}">{escape(result.query)}</h2>\n'
        f'<p class="{"found" if accepted else "nothing"}">{_found(ranking)}</p>\n'
    )
    if not accepted:
        best = f"; the best has {_score(float(ranking.scores[0]), ranking.calibrated)}" if len(ranking) else ""
        yield (
            f"<p>None of the {len(collection):,} pictures shows the same thing with enough evidence. "
            f"A match needs a {_measure(ranking)} of {_score(ranking.threshold, ranking.calibrated)}{best}.</p>\n"
        )
    if ranking.remark is not None:
        yield f"<p>Suspect: {ranking.remark}.</p>\n"
    if result.box is not None:
        yield f"<p>Only this part: {', '.join(f'{v:g}' for v in result.box)}</p>\n"
    yield f"<p>{len(collection):,} pictures searched in {took:.2f} s</p></div>\n</div>\n"
    if result.further:
        yield from _further(result.further, panes[1:])
    for start, stop in ((0, accepted), (accepted, len(ranking))):
        if start == stop:
            continue
        tail = start == accepted
        if tail:
            yield (
                f"<details>\n<summary>The next {stop - start}, not accepted as "
                f"{'a match' if stop - start == 1 else 'matches'}</summary>\n"
            )
        yield '<ol class="cards">\n'
        for index in range(start, stop):
            yield from _card(collection, result, panes, number, index, embedded)
        yield "</ol>\n" + ("</details>\n" if tail else "")
    yield "</section>\n"


def _pane(key: str, picture: Image | None) -> Pane:
    return Pane(key, (4, 3), "the query’s file is gone") if picture is None else Pane(key, picture.size)


def _further(examples: Sequence[ShownExample], panes: Sequence[Pane]) -> Iterator[str]:
    """The examples beside the first, small."""
    yield '<ul class="examples">\n'
    for example, pane in zip(examples, panes, strict=True):
        name, wish = escape(example.query), "less like" if example.weight < 0 else "also like"
        times = "" if abs(example.weight) == 1 else f" × {abs(example.weight):g}"
        yield (
            f'<li><svg viewBox="0 0 {pane.width:.1f} {pane.height:.1f}" role="img" aria-label="{wish}: {name}">'
            f"{pane.use()}{query_box(pane, example.box)}</svg>{wish}{times}: {name}</li>\n"
        )
    yield "</ul>\n"


def _card(
    collection: "Collection", result: QueryResult, panes: Sequence[Pane], number: int, index: int, embedded: set[str]
) -> Iterator[str]:
    ranking = result.ranking
    evidence, image_id = ranking.evidence[index], int(ranking.ids[index])
    entry = collection.entry(image_id)
    seen = 0 if evidence is None else evidence.example
    query, box = panes[seen], result.examples[seen].box
    pane, picture = _read(entry.origin, f"image{image_id}", entry.size)
    pixels = ""
    if picture is not None and pane.key not in embedded:
        embedded.add(pane.key)
        pixels = define(pane, picture)
    over = overlay(query, pane, box, evidence)
    href = escape(Path(entry.origin).as_uri()) if Path(entry.origin).is_file() else ""
    name = f'<a href="{href}">{escape(entry.origin)}</a>' if href else escape(entry.origin)
    agree = _agree(evidence)
    if evidence is not None and evidence.others:
        agree += f"; seen {1 + len(evidence.others)} times"
    if evidence is not None and result.further:
        agree += f", with {escape(result.examples[seen].query)}"
    yield (
        f'<li class="card{" has-over" if over else ""}" id="q{number}-r{index + 1}">\n{pixels}'
        f'<div class="facts"><a class="rank" href="#q{number}-r{index + 1}">{index + 1}</a>'
        f'<b class="score" title="{_measure(ranking)}">'
        f"{_score(float(ranking.scores[index]), ranking.calibrated)}</b>"
        f'<span>{agree}</span><span class="id">id:{image_id}</span></div>\n'
        f"{pair(query, pane, box, evidence, entry.origin)}\n{over}"
        f'<p class="path">{name}</p>\n</li>\n'
    )


def _read(origin: str, key: str, size: tuple[int, int]) -> tuple[Pane, Image | None]:
    try:
        picture = read_image_apart(origin, max_side=SIDE)
    except ImageError as error:
        return Pane(key, size, error.reason), None
    if picture.size != size:
        return Pane(key, size, "the file has changed since it was indexed"), None
    return Pane(key, size), picture


def _found(ranking: Ranking) -> str:
    if not ranking.accepted:
        return "Nothing found"
    if not isfinite(ranking.threshold):
        return f"The {len(ranking):,} most similar; this recipe cannot tell which are matches"
    return "1 match" if ranking.accepted == 1 else f"{ranking.accepted:,} matches"


def _measure(ranking: Ranking) -> str:
    return "probability of a true match" if ranking.calibrated else "similarity"


def _score(score: float, calibrated: bool) -> str:
    """A probability in per cent, never rounded to certainty; a similarity as it is."""
    if not calibrated:
        return f"{score:.3f}"
    if 0 < score < 0.005:
        return "&lt; 1 %"
    return "&gt; 99 %" if 0.995 <= score < 1 else f"{score:.0%}".replace("%", " %")


def _agree(evidence: Evidence | None) -> str:
    if evidence is None:
        return "not verified"
    if evidence.homography is None and evidence.outline is not None:  # as of [[rerank]] patches
        return "most similar region, not verified"
    colours = f", colours by {evidence.agreement:.0%}".replace("%", " %") if evidence.agreement < 1 else ""
    return f"{evidence.inliers} of {evidence.matches} points agree{colours}"
