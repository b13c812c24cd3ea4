"""The verb for a vector database that somebody already runs: engine."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, cast

import typer

from resight.cli import output
from resight.cli.options import CollectionPath, Json, Quiet
from resight.cli.progress import Reporter
from resight.errors import QueryError

if TYPE_CHECKING:
    from resight.store.engines import EngineState
    from resight.store.qdrant_engine import Codes


def engine(
    collection: CollectionPath,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Connect the Qdrant server here, and fill it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of the collection there; made if there is none.")
    ] = None,
    codes: Annotated[
        str,
        typer.Option(
            "--codes",
            metavar="binary|scalar|none",
            help="What Qdrant searches: a bit or a byte for each number, or the vectors.",
        ),
    ] = "none",
    depth: Annotated[
        int, typer.Option("--depth", min=1, metavar="N", help="Candidates compared exactly for each result.")
    ] = 5,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="The token may travel unencrypted to another machine.")
    ] = False,
    sync: Annotated[bool, typer.Option("--sync", help="Bring it up to date with the collection.")] = False,
    show: Annotated[bool, typer.Option("--show", help="What it holds, and how far it is behind.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Search without it from now on.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="With --drop: also delete what it holds of ours.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search a collection's global descriptors through a Qdrant server that you already run.

    A token is read from RESIGHT_VECTORDB_TOKEN, and is never stored. The server gets image ids and vectors, nothing
    else. See docs/engines.md.
    """
    from resight.search.collection import Collection

    if (url is not None) + sync + show + drop != 1:
        raise QueryError("say one thing: --url URL --name NAME to connect, or --sync, --show or --drop")
    if (url is None) != (name is None):
        raise QueryError("--url and --name belong together: the server, and the collection there")
    if delete and not drop:
        raise QueryError("--delete belongs to --drop")
    with Collection.open(collection, write=not show) as opened, Reporter(quiet) as reporter:
        if drop:
            opened.drop_engine(delete=delete)
            output.line("searched without a vector database from now on")
            return
        if show:
            state = opened.engine_state()
        elif url is not None and name is not None:
            state = opened.connect_engine(
                url, name, codes=cast("Codes", codes), depth=depth, insecure=insecure, progress=reporter
            )
        else:
            state = opened.sync_engine(progress=reporter)
    if json:
        output.line(output.as_json(asdict(state) | {"behind": state.behind}))
    else:
        _table(state)


def _table(state: "EngineState") -> None:
    rows = [
        ("server", state.url),
        ("collection", state.name),
        ("searched by", "vectors" if state.codes == "none" else f"{state.codes} codes"),
        ("depth", f"{state.depth}"),
        ("images", f"{state.described:,} with a global descriptor"),
        ("held", f"{state.held:,}"),
        ("newer than it", f"{state.lacking:,}, compared one by one"),
        ("up to date", "no; --sync catches up" if state.behind else "yes"),
    ]
    output.columns([(name, output.printable(value)) for name, value in rows], left=[0])
