"""The verbs that need a labelled set: evaluate, learn-fusion, learn-whitening."""

from pathlib import Path
from typing import Annotated

import typer

from resight.cli import output
from resight.cli.options import Json, Quiet, RecipeName, Weights, Workers, chosen_recipe
from resight.cli.progress import Reporter
from resight.errors import GroundTruthError


def evaluate(
    labelled: Annotated[
        Path,
        typer.Argument(
            metavar="SET", help="A folder with gt.json, or with one sub-folder an object, or see --dataset."
        ),
    ],
    recipe: RecipeName = None,
    weights: Weights = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="SET is this one of `resight datasets list`, as published."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", metavar="P", help="One of the data set's, by default the usual one.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Though the data set is not whole.")] = False,
    distractors: Annotated[
        list[Path] | None, typer.Option("--distractors", metavar="FOLDER", help="Photos that match no query.")
    ] = None,
    collection: Annotated[
        Path | None,
        typer.Option("--collection", metavar="FOLDER", help="Keep the collection here to reuse it."),
    ] = None,
    queries: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only N of the queries.")] = None,
    adapter: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="By this adapter of the recipe, as `search --as`.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses those queries.")] = 0,
    ap: Annotated[
        str | None,
        typer.Option(
            help="trapezoidal, rectangular, truncated or truncated-1000; by default the data set's, or the first."
        ),
    ] = None,
    json: Json = False,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="OUT.html", help="Also write a page with the worst queries."),
    ] = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Measure a recipe on a labelled set, and say by which protocol."""
    from resight import evaluation

    if dataset is not None:
        from resight.evaluation.datasets import load_dataset

        chosen = load_dataset(dataset, labelled, protocol, partial=partial)
        kind = ap or chosen.average_precision
    elif protocol is not None or partial:
        raise GroundTruthError(
            "--protocol and --partial are for the sets of `resight datasets list`: give --dataset NAME"
        )
    else:
        chosen = evaluation.load_labelled(labelled)
        kind = ap or "trapezoidal"
    if queries is not None:
        chosen = evaluation.sample(chosen, queries, seed)
    with Reporter(quiet) as reporter:
        report = evaluation.evaluate(
            chosen,
            chosen_recipe(recipe, weights),
            distractors=distractors or (),
            collection=collection,
            ap=kind,
            adapter=adapter,
            workers=workers,
            progress=reporter,
        )
    if page is not None:
        evaluation.write_page(report, page)
    for warning in report.warnings:
        output.note(warning)
    output.line(report.to_json() if json else report.table())


Tuned = Annotated[str, typer.Argument(metavar="RECIPE", help="Name or folder of the recipe.")]
LearnedOn = Annotated[Path, typer.Argument(metavar="SET", help="As for `evaluate`; not the set to test on.")]
Into = Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where the new recipe is written.")]


def learn_fusion(recipe: Tuned, labelled: LearnedOn, into: Into, workers: Workers = None, quiet: Quiet = False) -> None:
    """Learn on a labelled set the weights of a recipe's branches, and write a recipe that has them."""
    from resight.evaluation import load_labelled
    from resight.evaluation.tuning import tune_fusion, write_tuned
    from resight.recipes import load_recipe

    with Reporter(quiet) as reporter:
        found = tune_fusion(load_labelled(labelled), load_recipe(recipe), workers=workers, progress=reporter)
    write_tuned(recipe, found.weights, into)
    weights = ", ".join(f"{weight:g}" for weight in found.weights)
    output.line(f"weights {weights}: mAP {100 * found.before:.1f} before, {100 * found.after:.1f} after: {into}")


def learn_whitening(
    recipe: Tuned,
    labelled: LearnedOn,
    into: Into,
    ridge: Annotated[float, typer.Option(min=0, help="For fewer pairs than dimensions.")] = 0.1,
    quiet: Quiet = False,
) -> None:
    """Learn a whitening from the matching pairs of a labelled set, and write a recipe that has it."""
    from resight.evaluation import load_labelled, tuning
    from resight.recipes import load_recipe

    with Reporter(quiet) as reporter:
        learned = tuning.learn_whitening(
            load_labelled(labelled), load_recipe(recipe), ridge=ridge, report=reporter.report
        )
    tuning.write_whitened(recipe, learned.whitening, into)
    before, after = 100 * learned.before, 100 * learned.after
    output.line(f"{learned.whitening.fitted_on}: mAP {before:.1f} before, {after:.1f} after: {into}")
