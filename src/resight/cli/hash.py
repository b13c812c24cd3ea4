"""Hash functions: fit one to a collection's vectors, and compare several on a labelled set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import CollectionPath, Json, Quiet, RecipeName, Weights, Workers, chosen_recipe
from resight.cli.progress import Reporter
from resight.errors import ResightError

if TYPE_CHECKING:
    from resight.search.fit_hash import Labels

app = typer.Typer(no_args_is_help=True, help="Binary codes of global descriptors: fit a hash function, compare some.")


@app.command()
def fit(
    collection: CollectionPath,
    into: Annotated[
        Path, typer.Option("--into", metavar="FILE.safetensors", help="Where the hash function is written.")
    ],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Of the photos' vectors: lsh, pca-sign, itq, dsth, rbm, autoencoder. With --labels: ssdh or siamese. "
            "Of the photos turned: deepbit; of their local features: sah; of their regions: regional.",
        ),
    ] = "itq",
    bits: Annotated[int, typer.Option("--bits", metavar="N", help="Of a code; a multiple of 8.")] = 256,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="SET", help="Learn from the photos that this labelled set has labels of."),
    ] = None,
    angles: Annotated[
        str | None, typer.Option("--angles", metavar="A,B,…", help="In degrees, for deepbit; by default -10,-5,5,10.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Learn from at most N of the photos; by default 20,000, for sah 2,000."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the sample, and what the method draws.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Learn a hash function from the photos of a collection.

    Fitting on the photos that are then searched makes an evaluation unfair.
    """
    from resight.search.fit_hash import fit_hash

    _check_new(into)
    with Reporter(quiet) as reporter:
        function = fit_hash(
            collection,
            method,
            bits,
            sample=sample,
            seed=seed,
            labels=None if labels is None else _labels(labels),
            angles=None if angles is None else _degrees(angles),
            progress=reporter.report,
        )
    function.save(into)
    output.line(f"{method}, {bits} bits, learned from {function.fitted_on}: {into}")


@app.command()
def report(
    labelled: Annotated[Path, typer.Argument(metavar="SET", help="As for `evaluate`.")],
    recipe: RecipeName = None,
    weights: Weights = None,
    collection: Annotated[
        Path | None,
        typer.Option("--collection", metavar="FOLDER", help="Keep the collection here, or reuse one that is."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="lsh, pca-sign, itq, dsth, rbm, autoencoder, or, with --labels, ssdh or siamese; may be repeated; by "
            "default the first three.",
        ),
    ] = None,
    bits: Annotated[
        list[int] | None,
        typer.Option("--bits", metavar="N", help="May be repeated; by default 16, 32, … 1024, as far as can be."),
    ] = None,
    distractors: Annotated[
        list[Path] | None,
        typer.Option("--distractors", metavar="FOLDER", help="Photos that match no query, to learn from."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="SET2", help="Another labelled set, for methods that learn from labels."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what the methods draw, and of the order of equals.")] = 0,
    json: Json = False,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="OUT.svg", help="Also draw mAP against bits.")] = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Compare mAP by codes with mAP by the vectors themselves, for each method and number of bits.

    Hash functions learn from the distractors, and where there are none from the set itself, which flatters them.
    """
    from resight.evaluation import load_labelled
    from resight.evaluation.hash_vectors import describe, teach
    from resight.evaluation.hashing import BITS, check_wanted, compare

    if plot is not None:
        if plot.suffix.lower() != ".svg":
            raise ResightError(f"{plot}: plots are drawn as SVG: name a file that ends in .svg")
        if not plot.absolute().parent.is_dir():
            raise ResightError(f"{plot}: there is no folder {plot.parent}: make it, or choose another --plot")
    # Before the work, not after it.
    check_wanted(method or (), bits or (), labels=labels is not None)
    with Reporter(quiet) as reporter:
        chosen = chosen_recipe(recipe, weights)
        described = describe(
            load_labelled(labelled),
            chosen,
            distractors=distractors or (),
            collection=collection,
            workers=workers,
            progress=reporter,
        )
        taught = None
        if labels is not None:
            taught = teach(load_labelled(labels), chosen, described, workers=workers, progress=reporter)
        found = compare(
            described, methods=method or (), bits=bits or BITS, seed=seed, taught=taught, report=reporter.report
        )
    if plot is not None:
        found.write_plot(plot)
    for warning in found.warnings:
        output.note(warning)
    output.line(found.to_json() if json else found.table())


def _degrees(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ResightError(f"--angles {text}: give numbers with commas between them, such as -10,-5,5,10") from error


def _labels(path: Path) -> "Labels":
    from resight.evaluation import load_labelled
    from resight.evaluation.objects import objects
    from resight.search.fit_hash import Labels

    labelled = load_labelled(path)
    return Labels(labelled.name, {str(labelled.locate(photo)): name for photo, name in objects(labelled).items()})


def _check_new(into: Path) -> None:
    # Before the work, not after it.
    if into.exists():
        raise ResightError(f"{into}: is there already; choose another --into")
    if not into.absolute().parent.is_dir():
        raise ResightError(f"{into}: there is no folder {into.parent}: make it, or choose another --into")
