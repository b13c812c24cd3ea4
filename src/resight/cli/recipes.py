"""Recipes: list them, show one, fit what one learns."""

from pathlib import Path
from typing import Annotated

import typer

from resight.cli import output
from resight.cli.options import Photos, Quiet, Weights
from resight.cli.progress import Reporter

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
