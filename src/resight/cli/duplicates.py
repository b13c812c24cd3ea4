"""The verb that finds near-duplicates."""

from dataclasses import asdict
from typing import Annotated

import typer

from resight.cli import output
from resight.cli.options import CollectionPath, Json, Quiet
from resight.cli.progress import Reporter
from resight.errors import QueryError


def duplicates(
    collection: CollectionPath,
    overlap: Annotated[
        float,
        typer.Option(
            "--overlap", min=0.5, max=1, metavar="SHARE", help="Of both frames that shows the same, at least."
        ),
    ] = 0.8,
    again: Annotated[bool, typer.Option("--again", help="Compare all images anew; decisions stay.")] = False,
    known: Annotated[bool, typer.Option("--known", help="Show what was found before, and compare nothing.")] = False,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a heading.")] = False,
    quiet: Quiet = False,
) -> None:
    """Find pictures that a collection has more than once, in clusters. Exits with 1 if there are none.

    What was compared before is not compared again. Clusters whose pictures were decided to be different are left out;
    the page of `resight serve --write` is for deciding.
    """
    from resight.search.collection import Collection

    if json and csv:
        raise QueryError("--json and --csv exclude each other: name one")
    if known and again:
        raise QueryError("--known compares nothing and --again everything: name one")
    with Collection.open(collection, write=not known) as opened:
        if not known:
            with Reporter(quiet) as reporter:
                opened.find_duplicates(again=again, progress=reporter)
        found = [cluster for cluster in opened.duplicates(overlap=overlap) if cluster.decision != "different"]
        rows = [
            (number, image, opened.entry(image), cluster.overlap[place], cluster.inliers[place], cluster.decision)
            for number, cluster in enumerate(found, 1)
            for place, image in enumerate(cluster.images)
        ]
    if json:
        named = {image: entry.origin for _, image, entry, *_ in rows}
        told = [asdict(cluster) | {"paths": [named[image] for image in cluster.images]} for cluster in found]
        output.line(output.as_json({"clusters": told}))
    elif csv:
        heading = ("cluster", "id", "path", "width", "height", "overlap", "inliers", "decision")
        output.csv_rows([heading, *((n, i, e.origin, *e.size, o, count, d) for n, i, e, o, count, d in rows)])
    elif rows:
        cells = [
            (str(n), f"id:{i}", f"{e.size[0]}×{e.size[1]}", f"{o:.0%}", str(count), output.printable(e.origin))
            for n, i, e, o, count, _ in rows
        ]
        output.columns([("cluster", "id", "size", "overlap", "inliers", "path"), *cells])
    elif not quiet:
        output.note("no picture is there more than once")
    if not found:
        raise typer.Exit(1)
