"""The verb that measures every recipe on every set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import Quiet, Workers
from resight.cli.progress import Reporter
from resight.cli.recipes import Sample, Seed, WeightsFrom
from resight.errors import RecipeError, ResightError

if TYPE_CHECKING:
    from resight.evaluation.labelled import LabelledSet


def leaderboard(
    sets: Annotated[
        list[str],
        typer.Argument(metavar="SET", help="As for `evaluate`; or NAME=FOLDER for one of `resight datasets list`."),
    ],
    into: Annotated[
        Path,
        typer.Option("--into", metavar="FOLDER", help="Where leaderboard.md, results.csv and results.json are kept."),
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE|FOLDER",
            help="Repeatable; files and folders are taken as they are. By default all that come with resight.",
        ),
    ] = None,
    fit_on: Annotated[
        list[str] | None,
        typer.Option("--fit", metavar="PHOTOS", help="Other photos than the sets', for recipes by name to learn from."),
    ] = None,
    weights_from: WeightsFrom = None,
    queries: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only N of each set's queries.")] = None,
    limit: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Give up after so long: on making a recipe ready, and on each set."
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Also write leaderboard.md to this file.")
    ] = None,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Say this too at the head of --page.")] = "",
    sample: Sample = 5000,
    seed: Seed = 0,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Measure every recipe on every set: mAP, P@1, milliseconds a query, bytes an image.

    What FOLDER has of an earlier call is not measured again unless something that decides it has changed. Recipes that
    cannot run are in the table too, with the reason.
    """
    from resight.evaluation import sample as sampled
    from resight.evaluation.exchange import check_folder
    from resight.evaluation.leaderboard_run import run_leaderboard
    from resight.evaluation.made_ready import Kit, is_ready
    from resight.recipes import recipe_names

    if page is not None:
        check_folder(page)
    elif note:
        raise ResightError("--note is for the head of a page: name one by --page FILE, or leave --note out")
    names = recipe or list(recipe_names())
    plain = [name for name in names if not is_ready(name)]
    if plain and not fit_on:
        raise RecipeError(
            f"{plain[0]} has to be made ready: give --fit PHOTOS, other ones than the sets', or --recipe a folder that "
            "`resight fit` or `resight train` made"
        )
    kit = Kit(tuple(fit_on or ()), weights_from, None, sample, seed)
    chosen = [_set(text) for text in sets]
    if queries is not None:
        chosen = [sampled(each, queries, seed) for each in chosen]
    with Reporter(quiet) as reporter:
        board = run_leaderboard(chosen, names, kit, into, limit=limit, workers=workers, report=reporter.report)
    if page is not None:
        board.write_page(page, note)
    output.line(board.table())


def _set(text: str) -> "LabelledSet":
    from resight.evaluation import load_labelled
    from resight.evaluation.datasets import DATASETS, load_dataset

    name, equals, folder = text.partition("=")
    if equals and name in DATASETS and not Path(text).exists():
        return load_dataset(name, folder)
    return load_labelled(text)
