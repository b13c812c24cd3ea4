"""The verb that names what queries show: recognise."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from resight.cli import output
from resight.cli.options import Json, Quiet, RecipeName, Weights, Workers, chosen_recipe
from resight.cli.progress import Reporter
from resight.errors import GroundTruthError, QueryError


def recognise(
    labelled: Annotated[
        Path,
        typer.Argument(metavar="SET", help="As for `evaluate`; or GLDv2's recognition_solution_v2.1.csv."),
    ],
    recipe: RecipeName = None,
    weights: Weights = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", metavar="CSV", help="Judge these, of somebody else, in place of a recipe's."),
    ] = None,
    votes: Annotated[int, typer.Option(min=1, metavar="K", help="The first K results vote, by their scores.")] = 1,
    accepted: Annotated[
        bool, typer.Option("--accepted", help="Only what the recipe accepts as a match votes.")
    ] = False,
    distractors: Annotated[
        list[Path] | None, typer.Option("--distractors", metavar="FOLDER", help="Photos that match no query.")
    ] = None,
    collection: Annotated[
        Path | None, typer.Option("--collection", metavar="FOLDER", help="Keep the collection here to reuse it.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="CSV", help="Also write the predictions: query,label,confidence.")
    ] = None,
    json: Json = False,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Say which object each query shows, and measure it by GAP, as GLDv2's recognition task is.

    GAP is the average precision of all queries' predictions in one list, the most confident first; queries of objects
    that are not there have none, and any for them is wrong.
    """
    from resight import evaluation
    from resight.evaluation import recognise as sets
    from resight.evaluation.datasets import recognition
    from resight.evaluation.exchange import check_folder

    of_recipe = {
        "--recipe": recipe,
        "--weights": weights,
        "--votes": votes != 1,
        "--accepted": accepted,
        "--distractors": distractors,
        "--collection": collection,
        "--into": into,
    }
    if predictions is not None and (given := [name for name, value in of_recipe.items() if value]):
        raise QueryError(f"--predictions are judged in place of a recipe's: leave out {', '.join(given)}")
    if labelled.suffix == ".csv":
        if predictions is None:
            raise QueryError(f"{labelled}: has answers without photos: give --predictions CSV")
        theirs = recognition.read_predictions(predictions)
        found = {
            part: recognition.recognise(solution, theirs)
            for part, solution in recognition.read_recognition(labelled).items()
            if any(solution.values())
        }
        if not found:
            raise GroundTruthError(f"{labelled}: no test image shows a landmark: there is nothing to recognise")
    else:
        chosen = evaluation.load_labelled(labelled)
        if into is not None:
            check_folder(into)
        if not chosen.groups:
            output.note(f"{chosen.name} names no objects: photos that its answers link are taken for one")
        if predictions is not None:
            told, strangers = sets.read_set_predictions(predictions, chosen)
            if strangers:
                output.note(f"{len(strangers)} queries are not in the set and count nothing, such as {strangers[0]}")
        else:
            with Reporter(quiet) as reporter:
                told = sets.predict(
                    chosen,
                    chosen_recipe(recipe, weights),
                    votes=votes,
                    accepted=accepted,
                    distractors=distractors or (),
                    collection=collection,
                    workers=workers,
                    progress=reporter,
                )
        if into is not None:
            sets.write_set_predictions(told, into)
        found = {chosen.name: recognition.recognise(sets.solution(chosen), told)}
    if json:
        output.line(output.as_json({part: asdict(each) for part, each in found.items()}))
        return
    head = ("", "GAP", "right", "of", "predicted", "queries")
    output.columns(
        [
            head,
            *(
                (part, f"{100 * r.gap:.1f}", str(r.right), str(r.answerable), str(r.predicted), str(r.images))
                for part, r in found.items()
            ),
        ],
        left=[0],
    )
