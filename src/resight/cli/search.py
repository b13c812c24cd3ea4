"""The verb that finds: queries in, every picture of the same thing out."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output, results
from resight.cli.options import Cluster, CollectionPlace, Quiet
from resight.cli.queries import Scope, answers, expand, parse_box, parse_example, parse_look
from resight.errors import QueryError

if TYPE_CHECKING:
    from resight.cluster.collection import ClusterCollection
    from resight.search.page import QueryResult

NEAR = 10  # images below the matches that a page shows without --all


def search(
    collection: CollectionPlace,
    query: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY",
            help="A picture's path, id:N (one of the collection, left out of its own results), - (a picture "
            "on standard input), or @LIST or @- (one query a line).",
        ),
    ],
    box: Annotated[
        str | None, typer.Option(metavar="X1,Y1,X2,Y2", help="Only this part of the query, in its pixels.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="IMAGE[@X1,Y1,X2,Y2][*WEIGHT]",
            help="A further picture of what the query shows, or a part of it; the query itself weighs 1. Repeatable.",
        ),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="IMAGE[@X1,Y1,X2,Y2][*WEIGHT]",
            help="A picture of what is not meant, such as a look-alike; a weight of 0.2 is gentle. Repeatable.",
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option("--top", "-k", envvar="RESIGHT_TOP", min=1, metavar="K", help="At most K results a query."),
    ] = 50,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Only images of which this is true, such as 'year >= 1900' or 'camera_model has EOS'. Repeatable: all "
            "of them; see `resight metadata keys`.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Describe queries with another recipe than the collection's, trained to be compatible with it.",
        ),
    ] = None,
    turns: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Look at the query in N turns too, for photos of any orientation; 4 do."),
    ] = None,
    scales: Annotated[
        str | None, typer.Option(metavar="1,S,…", help="Look at the query in smaller sizes too, as in 1,0.7,0.5.")
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="Compare as the recipe's adapter of this name does, which was learned of one of several sets.",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare all images, also where `resight tune` has built an index.")
    ] = False,
    least: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            help="A match has this probability at least, in place of the recipe's; or, with a recipe that only ranks, "
            "this similarity.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also show what is not accepted as a match.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object with all the evidence.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a heading.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Only the paths found, one a line.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="With --paths: end each with a zero byte.")] = False,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="OUT.html", help="Also write a page to look at, in one file."),
    ] = None,
    cluster: Cluster = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="With --cluster: shards that do not answer are not an error.")
    ] = False,
    patience: Annotated[
        float, typer.Option("--patience", min=0.1, metavar="SECONDS", help="With --cluster: how long a shard may take.")
    ] = 30.0,
    quiet: Quiet = False,
) -> None:
    """Find every other picture of the same thing, with evidence.

    Exits with 0 if anything was found, 1 if nothing was for any query, 2 if a query or anything else failed, also where
    shards did not answer.
    """
    from resight.images.apart import start_apart
    from resight.recipes import load_recipe
    from resight.search.collection import Collection
    from resight.store.where_text import parse_all

    if json + csv + (paths or null) > 1:
        raise QueryError("--json, --csv and --paths exclude each other: name one")
    if recipe is not None and cluster is not None:
        raise QueryError("--recipe is of a collection on one machine: leave it or --cluster out")
    part = None if box is None else parse_box(box)
    further = [parse_example(text, "--also") for text in also or ()]
    further += [parse_example(text, "--not") for text in unlike or ()]
    texts: Iterable[str] = expand(query)
    if part is not None or further:
        texts = list(texts)
        if len(texts) != 1:
            what = "--box is a part" if part is not None else "--also and --not are examples"
            raise QueryError(f"{what} of one query, and there are {len(texts)}: give one query at a time")

    if not all(text.startswith("id:") for text in query):
        start_apart()  # while the collection is opened
    kept: list[QueryResult] = []
    found = failed = False
    shards = None if cluster is None else _joined(collection, cluster, patience)

    def remark(result: "QueryResult") -> None:
        if result.ranking.accepted == top and isfinite(result.ranking.threshold):
            output.note(f"{result.query}: only the first {top} are shown; --top shows more")
        if not result.ranking.accepted and (csv or paths or null):
            output.note(f"{result.query}: nothing found")

    def watched(outcomes: Iterator[results.Outcome]) -> Iterator[results.Outcome]:
        nonlocal found, failed
        for outcome in outcomes:
            if isinstance(outcome, results.Unanswered):
                failed = True
                output.note(f"{outcome.query}: {outcome.reason}")
            else:
                if least is not None:
                    outcome = replace(outcome, ranking=outcome.ranking.accepting(least))
                found |= outcome.ranking.accepted > 0
                if shards is not None and shards.missing:
                    failed |= not partial
                    output.note(f"{outcome.query}: {shards.missing}")
                if page is not None:
                    near = len(outcome.ranking) if everything else outcome.ranking.accepted + NEAR
                    kept.append(replace(outcome, ranking=outcome.ranking.top(near)))
                if not quiet:
                    remark(outcome)
            yield outcome

    queries_by = None if recipe is None else load_recipe(recipe)
    with Collection.open(collection, recipe=queries_by) if shards is None else shards as opened:
        scope = Scope(parse_all(where or ()), exact)
        if turns is not None or scales is not None:
            opened.query = parse_look(turns or 1, scales)
        if adapter is not None:
            opened.adapter = adapter
        outcomes = watched(answers(opened, texts, part, top, pictures=page is not None, further=further, scope=scope))
        if json:
            results.json(opened, outcomes, everything)
        elif csv:
            results.csv(opened, outcomes, everything)
        elif paths or null:
            results.paths(opened, outcomes, everything, end="\0" if null else "\n")
        else:
            results.table(opened, outcomes, everything)
        if page is not None:
            from resight.search.page import write_results_page

            write_results_page(page, opened, kept)
    if failed or not found:
        raise typer.Exit(2 if failed else 1)


def _joined(collection: str, cluster: str, patience: float) -> "ClusterCollection":
    from resight.cluster.collection import ClusterCollection

    return ClusterCollection.join(collection, cluster=cluster, limit=patience)
