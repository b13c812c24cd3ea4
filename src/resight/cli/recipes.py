"""Recipes: list them, show one, fit what one learns."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import Json, Photos, Quiet, Weights, Workers
from resight.cli.progress import Reporter

if TYPE_CHECKING:
    from resight.evaluation.check_recipes import Checked

WeightsFrom = Annotated[
    Path | None,
    typer.Option(
        "--weights-from",
        metavar="FOLDER",
        help="Weights by their networks' names: vgg16.safetensors, .npz or .pth, or alone in a folder vgg16. Then "
        "nothing is downloaded.",
    ),
]
Sample = Annotated[int, typer.Option(min=1, metavar="N", help="Learn from at most N of the photos.")]
Seed = Annotated[int, typer.Option(min=0, help="Chooses what is drawn.")]

app = typer.Typer(invoke_without_command=True, help="List the recipes that come with resight, or show one.")


@app.callback()
def listing(ctx: typer.Context) -> None:
    """List the recipes that come with resight."""
    from resight.recipes import load_recipe, recipe_names

    if ctx.invoked_subcommand is None:
        output.columns([(name, load_recipe(name).title) for name in recipe_names()], left=[0])


@app.command()
def show(name: Annotated[str, typer.Argument(help="One of `resight recipes`.")]) -> None:
    """Print a recipe as TOML with its comments: a beginning for one's own."""
    from resight.recipes import recipe_text

    output.line(recipe_text(name).rstrip("\n"))


@app.command()
def check(
    labelled: Annotated[Path, typer.Option("--set", metavar="SET", help="A small one, as for `evaluate`.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE", help="Names; or files and folders, taken as they are. By default all names."),
    ] = None,
    weights_from: WeightsFrom = None,
    fit_on: Annotated[
        list[str] | None,
        typer.Option("--fit", metavar="PHOTOS", help="What recipes learn from; by default the set's own folder."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="K/N", help="Only every N-th, from the K-th on; K counts modulo N."),
    ] = None,
    queries: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only N of the queries.")] = None,
    sample: Sample = 5000,
    seed: Seed = 0,
    json: Json = False,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Make each recipe ready, index a small set, search and measure, and say what did not work; exits with 1 then.

    It tells whether recipes work, not how good they are: unless --fit names other photos, they learn from those that
    they search. Recipes whose parts `resight train` makes are checked by the folder that it leaves.
    """
    from resight.evaluation import load_labelled
    from resight.evaluation import sample as sampled
    from resight.evaluation.check_recipes import check_recipes, part_of
    from resight.evaluation.made_ready import Kit
    from resight.recipes import recipe_names

    chosen = load_labelled(labelled)
    kit = Kit(tuple(fit_on or [str(chosen.root)]), weights_from, chosen, sample, seed)
    wanted = names or list(recipe_names())
    if part is not None:
        wanted = list(part_of(wanted, part))
    asked = chosen if queries is None else sampled(chosen, queries, seed)
    found: list[Checked] = []
    wide = max((len(name) for name in wanted), default=0)
    if not json:
        output.line(f"{'recipe'.ljust(wide)}    mAP    P@1  ms a query  bytes an image")
    with Reporter(quiet) as reporter:
        for one in check_recipes(wanted, asked, kit, workers=workers, report=reporter.report):
            found.append(one)
            if not json:
                output.line(f"{one.recipe.ljust(wide)}  {_figures(one)}")
    if json:
        output.line(output.as_json({"set": chosen.name, "recipes": [asdict(one) for one in found]}))
    if any(one.failure for one in found):
        raise typer.Exit(1)


def _figures(one: "Checked") -> str:
    if one.failure:
        return output.printable(f"did not work: {one.failure}")
    score, first = (
        "    –" if value is None else f"{100 * value:5.1f}"
        for value in (one.mean_average_precision, one.precision_at_1)
    )
    return f"{score}  {first}  {one.milliseconds or 0:10.1f}  {one.bytes_per_image or 0:14,.0f}"


def fit(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name, TOML file or folder of the recipe.")],
    photos: Photos,
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where the fitted recipe is written.")],
    weights: Weights = None,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Learn from at most N of the photos.")] = 5000,
    seed: Annotated[int, typer.Option(help="Chooses the sample.")] = 0,
    local_weights: Annotated[
        Path | None,
        typer.Option("--local-weights", metavar="FILE", help="Of what finds local features; for some a folder."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute the network in 8 bits: faster, a little less exact.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Learn from photos what a recipe learns (codebook, whitening) and write a recipe that has it.

    The result is a folder to name with --recipe. Fitting on the photos that are then searched makes an
    evaluation unfair.
    """
    from resight.describe.fit import fit_recipe

    with Reporter(quiet) as reporter:
        written = fit_recipe(
            recipe,
            photos,
            weights=weights,
            into=into,
            sample=sample,
            seed=seed,
            int8=int8,
            local_weights=local_weights,
            progress=reporter.report,
        )
    output.line(str(written))
