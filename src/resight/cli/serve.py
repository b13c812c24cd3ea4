"""The verb that serves a collection: a page and an API on this machine, or its shards on a cluster's nodes."""

import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import CollectionPlace, Quiet
from resight.errors import QueryError, RecipeError

if TYPE_CHECKING:
    from resight.cluster.serving import State

_EVERY = 2.0  # seconds between two looks at the cluster


def serve(
    collection: CollectionPlace,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            envvar="RESIGHT_HOST",
            metavar="HOST",
            help="What to listen on; needs a token if others can reach it.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", envvar="RESIGHT_PORT", min=0, max=65535, metavar="N")] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="RESIGHT_TOKEN",
            metavar="TEXT",
            help="What each request must bring; better in RESIGHT_TOKEN: other users see arguments. "
            "One is made and shown where --host needs it.",
        ),
    ] = None,
    public: Annotated[
        str | None,
        typer.Option(
            "--public",
            envvar="RESIGHT_PUBLIC",
            metavar="URL",
            help="Where a proxy, which adds https, makes it reachable; needs a token too.",
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Let users add and remove images and decide on duplicates.")
    ] = False,
    photos: Annotated[
        list[Path] | None,
        typer.Option("--photos", metavar="FOLDER", help="With --write: where photos may be added from. Repeatable."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", envvar="RESIGHT_TIMEOUT", min=0.1, metavar="SECONDS", help="What a search may take."),
    ] = 60.0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            envvar="RESIGHT_WORKERS",
            min=1,
            metavar="N",
            help="Searches at the same time; by default as many as cores, but two.",
        ),
    ] = None,
    upload: Annotated[
        int, typer.Option("--upload", min=1, metavar="MIB", help="Most bytes of an uploaded picture, in MiB.")
    ] = 64,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="FOLDER", help="Where queries and thumbnails are kept, by default in the cache."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="HOST:PORT",
            help="Instead hold the shards of a collection on this Ray cluster's nodes.",
        ),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            "--replicas",
            min=1,
            metavar="R",
            help="With --cluster: how many nodes hold each shard, if there are so many.",
        ),
    ] = 2,
    quiet: Quiet = False,
) -> None:
    """Serve a collection to a browser and to programs, until Ctrl-C; on this machine alone unless --host says more.

    With --cluster: hold a collection in shards, for `resight search --cluster`. A node's shards move elsewhere when it
    dies, and to nodes that join; what is indexed meanwhile is taken up.
    """
    if cluster is not None:
        return _hold(collection, cluster, replicas, quiet)
    if photos and not write:
        raise QueryError("--photos says where photos may be added from: give --write too")
    if missing := [folder for folder in photos or () if not folder.is_dir()]:
        raise QueryError(f"--photos {missing[0]}: there is no such folder")
    try:
        from resight.server.run import serve as serve_http
        from resight.server.settings import MIB, Settings, needs_token, ranking_threads
    except ModuleNotFoundError as error:
        raise RecipeError(f"serving needs {error.name}: pip install 'resight[serve]'") from error
    if token is None and needs_token(host, public):
        token = secrets.token_urlsafe(24)
    settings = Settings(
        host=host,
        port=port,
        token=token,
        public=public,
        write=write,
        photos=tuple(folder.absolute() for folder in photos or ()),
        timeout=timeout,
        workers=workers or ranking_threads(),
        upload_bytes=upload * MIB,
        state=state,
    )
    shown = f"[{host}]" if ":" in host else host

    def ready(port: int) -> None:
        if not quiet:
            address = f"http://{shown}:{port}" if public is None else public.rstrip("/")
            output.line(f"{address}/" + ("" if token is None else f"#token={token}"))
            sys.stdout.flush()

    try:
        serve_http(Path(collection), settings, ready)
    except KeyboardInterrupt:
        output.note("stopped")
    return None


def _hold(collection: str, cluster: str, replicas: int, quiet: bool) -> None:
    from resight.cluster.engine import connect
    from resight.cluster.files import Files
    from resight.cluster.serving import keep, stop

    connect(cluster)
    files, told = Files(collection), None
    try:
        while True:
            state = keep(files, replicas)
            if not quiet and state != told:
                output.line(_state(state, replicas))
                told = state
            time.sleep(_EVERY)
    except KeyboardInterrupt:
        stop(files)
        output.note("stopped: the shards are no longer held")


def _state(state: "State", replicas: int) -> str:
    held, wanted = sum(state.answering), replicas * len(state.answering)
    silent = [str(number) for number, count in enumerate(state.answering) if count == 0]
    text = f"version {state.version}: {held} of {wanted} replicas answer, on {state.nodes} nodes"
    if silent:
        text += f"; none of shard {', '.join(silent)}"
    return "\n".join([text, *(f"  {problem}" for problem in state.problems)])
