"""The `resight` command. Every verb is a thin command over a function of the library.

Exit codes: 0 done (search: something found), 1 nothing found or problems found, 2 an error, 3 a defect of resight,
130 interrupted.
"""

import faulthandler
import os
import signal
import sys
import traceback
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from resight.cli import (
    compare,
    datasets,
    duplicates,
    engine,
    evaluate,
    explain,
    hash,
    index,
    inspect,
    leaderboard,
    networks,
    output,
    recipes,
    recognise,
    rerank,
    results_exchange,
    search,
    serve,
    study,
    train,
    tune,
    upgrade,
    weights,
)
from resight.cli import metadata as metadata_verbs
from resight.errors import ResightError


class _Commands(TyperGroup):
    """Turns what a user can cause into a message and an exit code, for every verb alike."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except ResightError as error:
            output.note(str(error))
            raise typer.Exit(2) from error
        except BrokenPipeError as error:
            # The reader has gone (`| head`). Python flushes again at exit, so that must not reach the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(128 + signal.SIGPIPE) from error
        except KeyboardInterrupt as error:
            output.note("interrupted")
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the same thing again: every other picture of an object in a photo collection, with evidence.",
)
app.command("index")(index.index)
app.command("search")(search.search)
app.command("explain")(explain.explain)
app.command("info")(inspect.info)
app.command("duplicates")(duplicates.duplicates)
app.command("failures")(inspect.failures)
app.command("remove")(index.remove)
app.command("verify")(inspect.verify)
app.command("repair")(inspect.repair)
app.command("export")(inspect.export)
app.command("rerank")(rerank.rerank)
app.command("learn-rerank")(rerank.learn_rerank)
app.command("refit")(index.refit)
app.command("upgrade")(upgrade.upgrade)
app.command("serve")(serve.serve)
app.command("fit")(recipes.fit)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("compare")(compare.compare)
app.command("score")(results_exchange.score)
app.command("recognise")(recognise.recognise)
app.command("rankings")(results_exchange.rankings)
app.command("learn-fusion")(evaluate.learn_fusion)
app.command("learn-whitening")(evaluate.learn_whitening)
app.command("tune")(tune.tune)
app.command("engine")(engine.engine)
app.add_typer(datasets.app, name="datasets")
app.add_typer(metadata_verbs.app, name="metadata")
app.add_typer(study.app, name="study")
app.add_typer(hash.app, name="hash")
app.add_typer(recipes.app, name="recipes")
app.add_typer(networks.app, name="networks")
app.add_typer(weights.app, name="weights")


def _version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        output.line(f"resight {metadata.version('resight')}")
    except metadata.PackageNotFoundError:
        output.line("resight, from a source tree that is not installed")
    raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console entry point. File names that are not valid text pass through unchanged."""
    faulthandler.enable()  # so that a disk that fails beneath a memory map (SIGBUS) does not end this without a word
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    try:
        app(prog_name="resight")
    except Exception:  # Python would exit with 1, which a script takes for "nothing found"
        traceback.print_exc()
        output.note("this is a defect of resight, not of your photos: please report it with the lines above")
        sys.exit(3)
