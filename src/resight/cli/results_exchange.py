"""The verbs that exchange rankings with others: score theirs, write ours."""

from pathlib import Path
from typing import Annotated

import typer

from resight.cli import output
from resight.cli.options import Json, Quiet, RecipeName, Weights, Workers, chosen_recipe
from resight.cli.progress import Reporter

Set = Annotated[Path, typer.Argument(metavar="SET", help="As for `evaluate`.")]
Distractors = Annotated[
    list[Path] | None, typer.Option("--distractors", metavar="FOLDER", help="Photos that match no query.")
]
Form = Annotated[
    str | None,
    typer.Option("--format", metavar="FORM", help="ranks (.npy), trec (.trec, .run), csv or gldv2; else by suffix."),
]


def score(
    labelled: Set,
    rankings: Annotated[Path, typer.Argument(metavar="RANKINGS", help="A file of somebody's rankings for it.")],
    form: Form = None,
    distractors: Distractors = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", metavar="FILE", help="Judge by these, as trec_eval reads them.")
    ] = None,
    ap: Annotated[str | None, typer.Option(help="trapezoidal, rectangular, truncated, …; else the set's own.")] = None,
    json: Json = False,
) -> None:
    """Measure somebody else's rankings for a labelled set by its protocol."""
    from resight import evaluation
    from resight.evaluation import exchange
    from resight.evaluation.qrels import with_qrels
    from resight.evaluation.score import score as judge

    exchange.format_of(rankings, form)  # before the set is read
    chosen = evaluation.with_distractors(evaluation.load_labelled(labelled), distractors or ())
    theirs = exchange.read_rankings(rankings, chosen, form)
    if qrels is not None:
        chosen = with_qrels(chosen, qrels)
    found = judge(chosen, theirs, ap=ap)
    for warning in found.warnings:
        output.note(warning)
    output.line(found.to_json() if json else found.table())


def rankings(
    labelled: Set,
    into: Annotated[Path, typer.Option("--into", metavar="FILE", help="What to write.")],
    form: Form = None,
    recipe: RecipeName = None,
    weights: Weights = None,
    distractors: Distractors = None,
    collection: Annotated[
        Path | None, typer.Option("--collection", metavar="FOLDER", help="Keep the collection here to reuse it.")
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", "-k", min=1, metavar="K", help="At most K results a query.")
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", metavar="FILE", help="Also write the set's judgements, for trec_eval.")
    ] = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Write a recipe's rankings for a labelled set in a form that others score."""
    from resight import evaluation
    from resight.evaluation import exchange
    from resight.evaluation.qrels import write_qrels
    from resight.evaluation.rank import rank

    chosen = exchange.format_of(into, form)
    for file in (into, *([] if qrels is None else [qrels])):
        exchange.check_folder(file)
    asked = evaluation.load_labelled(labelled)
    if chosen != "ranks":
        exchange.query_names(asked)  # before the hours of work, not after them
    with Reporter(quiet) as reporter:
        ranked_set, found = rank(
            asked,
            chosen_recipe(recipe, weights),
            distractors=distractors or (),
            collection=collection,
            top=top,
            workers=workers,
            progress=reporter,
        )
    exchange.write_rankings(into, ranked_set, found, chosen)
    if qrels is not None:
        write_qrels(qrels, asked)
    output.line(str(into))
