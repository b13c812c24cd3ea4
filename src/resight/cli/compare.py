"""The verb that tells a difference from chance."""

from pathlib import Path
from typing import Annotated

import typer

from resight.cli import output
from resight.cli.options import Json


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="A report, of `evaluate --json` or `score --json`.")],
    others: Annotated[list[Path], typer.Argument(metavar="B.json…", help="Others, each compared with it.")],
    level: Annotated[float, typer.Option(help="Of confidence.")] = 0.95,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap and of the permutation test.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Chooses the resamples.")] = 0,
    changes: Annotated[int, typer.Option(min=0, metavar="N", help="Queries to list that changed most.")] = 10,
    json: Json = False,
) -> None:
    """Compare reports on the same queries: a difference is marked only where chance does not explain it."""
    from resight.evaluation import compare as comparing
    from resight.evaluation.kept_report import read_report

    found = comparing.compare(
        [read_report(path) for path in (first, *others)],
        level=level,
        resamples=resamples,
        seed=seed,
        changes=changes,
    )
    for note in found.notes:
        output.note(note)
    if json:
        output.line(found.to_json())
        return
    for line in found.table().split("\n"):
        output.line(output.printable(line))
