"""The verb that says why: what is known of a query and one image of the collection."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resight.cli import output, results
from resight.cli.index import selector
from resight.cli.options import CollectionPath, Json
from resight.cli.queries import parse_box, without
from resight.errors import ImageError, QueryError

if TYPE_CHECKING:
    from resight.search.collection import Collection
    from resight.search.explain import Side


def explain(
    collection: CollectionPath,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A picture's path, or id:N, one of the collection.")],
    result: Annotated[str, typer.Argument(metavar="RESULT", help="An image of the collection: id:N or its path.")],
    box: Annotated[
        str | None, typer.Option(metavar="X1,Y1,X2,Y2", help="Only this part of the query, in its pixels.")
    ] = None,
    heat: Annotated[
        Path | None,
        typer.Option(
            "--heat",
            metavar="OUT.png|OUT.html",
            help="Also draw where in both pictures the similarity of their global descriptors comes from.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say what a search knows of a query and one image: probability, similarity, points that agree, homography."""
    from resight.search.collection import Collection
    from resight.search.explain import check_target, known_similarity, locate_pair, write_explanation
    from resight.search.page import QueryResult

    part = None if box is None else parse_box(box)
    if heat is not None:
        check_target(heat)
    with Collection.open(collection) as opened:
        asked = selector(query) if query.startswith("id:") else query
        found = _result(opened, result)
        try:
            ranking, timing = opened.search_timed(asked, box=part, exact=True)
        except ImageError as error:
            raise QueryError(f"{query}: {error.reason}") from error
        if isinstance(asked, int) and asked != found:
            ranking = without(ranking, asked)
        index = ranking.ids.tolist().index(found)
        facts = {
            "query": query,
            "query_box": part,
            "images": len(ranking),
            "calibrated": ranking.calibrated,
            "similarity": known_similarity(opened, asked, found, ranking, box=part),
            **results._result(opened, QueryResult(query, None, part, ranking, timing), index),
        }
        sides = [] if heat is None else locate_pair(opened, asked, found, box=part)
        if heat is not None:
            write_explanation(heat, sides, ranking.evidence[index])
    if json:
        output.line(output.as_json(facts | {"places": [_places(side) for side in sides] or None}))
    else:
        output.columns([*_rows(facts), *((f"in {_name(side)}", ", ".join(side.lines)) for side in sides)], left=[0])


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known, for people."""
    rows = [
        ("query", output.printable(facts["query"])),
        ("result", output.printable(f"id:{facts['id']} {facts['path']}")),
        ("rank", f"{facts['rank']:,} of {facts['images']:,}"),
    ]
    if facts["calibrated"]:
        rows.append(("probability", f"{facts['score']:.3f}, {'a match' if facts['accepted'] else 'not a match'}"))
    if facts["similarity"] is not None:
        rows.append(("similarity", f"{facts['similarity']:.3f}"))
    if facts["inliers"] is None:
        rows.append(("inliers", "not verified"))
    else:
        rows.append(("inliers", f"{facts['inliers']} of {facts['matches']} matching points"))
        if facts["agreement"] < 1:
            rows.append(("colours", f"agree by {facts['agreement']:.0%}".replace("%", " %")))
    if facts["homography"] is not None:
        rows.append(("box", ",".join(f"{v:.0f}" for v in facts["box"])))
        rows.append(("homography", "; ".join(" ".join(f"{v:.6g}" for v in row) for row in facts["homography"])))
    return rows


def _name(side: "Side") -> str:
    return output.printable(Path(side.picture.origin).name)


def _result(collection: "Collection", text: str) -> int:
    """The id of the image that RESULT names. Raises QueryError where there is none."""
    chosen = selector(text)
    found = chosen if isinstance(chosen, int) else collection.find(chosen)
    if found is None:
        raise QueryError(f"{text}: is not in the collection; `resight export` lists what is")
    return collection.entry(found).id


def _places(side: "Side") -> dict[str, Any]:
    found = side.located
    return {
        "path": side.picture.origin,
        "similarity": found.similarity,
        "gain": found.gain,
        "loss": found.loss,
        "constant": found.constant,
    }
