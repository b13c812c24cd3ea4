"""The verb that holds a collection in shards ready to be searched."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import CollectionPlace, Quiet

if TYPE_CHECKING:
    from resight.cluster.serving import State

_EVERY = 2.0  # seconds between two looks at the cluster


def serve(
    collection: CollectionPlace,
    cluster: Annotated[str, typer.Option("--cluster", metavar="HOST:PORT", help="A Ray cluster's address.")],
    replicas: Annotated[
        int,
        typer.Option("--replicas", min=1, metavar="R", help="How many nodes hold each shard, if there are so many."),
    ] = 2,
    quiet: Quiet = False,
) -> None:
    """Hold a collection in shards on a cluster's nodes, for `resight search --cluster`, until Ctrl-C.

    A node's shards move elsewhere when it dies, and to nodes that join; what is indexed meanwhile is taken up.
    """
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
