"""Studies: what pooling, length or layer of a network does to mAP on labelled sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import Quiet, RecipeName, Weights, chosen_recipe
from resight.cli.progress import Reporter
from resight.errors import ResightError

if TYPE_CHECKING:
    from resight.evaluation.labelled import LabelledSet
    from resight.evaluation.plot import Study

app = typer.Typer(no_args_is_help=True, help="Compare poolings, dimensions or layers of a network on labelled sets.")

Sets = Annotated[list[Path], typer.Argument(metavar="SET", help="As for `evaluate`; a column each.")]
Into = Annotated[
    Path,
    typer.Option("--into", metavar="FOLDER", help="Where table.md, results.json and plot.svg are written."),
]
Fit = Annotated[
    list[Path] | None,
    typer.Option("--fit", metavar="PHOTOS", help="Other photos than the sets', to learn projections from."),
]
Sample = Annotated[int, typer.Option(min=1, metavar="N", help="Learn from at most N of the photos.")]
Seed = Annotated[int, typer.Option(help="Chooses the sample.")]


@app.command()
def pooling(
    sets: Sets,
    into: Into,
    recipe: RecipeName = None,
    weights: Weights = None,
    fit: Fit = None,
    dimensions: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Of whitened vectors; by default 512, or as many as there can be."),
    ] = None,
    sample: Sample = 5000,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compare the poolings of the recipe's layer; with --fit also those that learn, and each PCA-whitened."""
    from resight.evaluation import study

    with _asked(into, quiet) as reporter:
        photos = study.draw_photos(fit, sample, seed) if fit else None
        chosen = chosen_recipe(recipe, weights)
        found = study.study_pooling(_load(sets), chosen, fit=photos, dimensions=dimensions, report=reporter.report)
    _finish(found, into)


@app.command()
def dimensions(
    sets: Sets,
    into: Into,
    fit: Annotated[
        list[Path], typer.Option("--fit", metavar="PHOTOS", help="Other photos than the sets', to learn from.")
    ],
    recipe: RecipeName = None,
    weights: Weights = None,
    sample: Sample = 5000,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compare lengths of the recipe's descriptor under PCA and PCA-whitening: 32, 64, … and all of it, or 8192."""
    from resight.evaluation import study

    with _asked(into, quiet) as reporter:
        photos = study.draw_photos(fit, sample, seed)
        found = study.study_dimensions(_load(sets), chosen_recipe(recipe, weights), fit=photos, report=reporter.report)
    _finish(found, into)


@app.command()
def layers(sets: Sets, into: Into, recipe: RecipeName = None, weights: Weights = None, quiet: Quiet = False) -> None:
    """Compare the layers of the recipe's network that are maps, each under GeM."""
    from resight.evaluation import study

    with _asked(into, quiet) as reporter:
        found = study.study_layers(_load(sets), chosen_recipe(recipe, weights), report=reporter.report)
    _finish(found, into)


def _asked(into: Path, quiet: bool) -> Reporter:
    # Before the hours of work, not after them.
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ResightError(f"{into}: is not an empty folder; choose another --into")
    return Reporter(quiet)


def _load(sets: list[Path]) -> "list[LabelledSet]":
    from resight.evaluation import load_labelled

    return [load_labelled(path) for path in sets]


def _finish(study: "Study", into: Path) -> None:
    study.write(into)
    for warning in study.warnings:
        output.note(warning)
    output.line(study.table())
