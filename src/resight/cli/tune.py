"""The verb that chooses how a collection's global descriptors are searched: tune."""

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import CollectionPath, Json, Quiet
from resight.cli.progress import Reporter
from resight.errors import QueryError

if TYPE_CHECKING:
    from resight.search.index_tuning import Trial, Tuned

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def tune(
    collection: CollectionPath,
    recall: Annotated[
        float, typer.Option(min=0.01, max=1, help="The share of the exact nearest that must be found.")
    ] = 0.98,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What the index may take at most, such as 500M or 2G.")
    ] = None,
    build: Annotated[float, typer.Option(min=1, metavar="MINUTES", help="How long it may take to build.")] = 60,
    k: Annotated[
        int | None,
        typer.Option("-k", min=1, help="How many nearest; by default those that are verified, or else 10."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="NAME", help="Try only kinds whose names begin so, as HNSW. Repeatable."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Measure nothing: compare all images from now on.")] = False,
    seed: Annotated[int, typer.Option(help="Chooses the images that are asked for, and trains.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose an index for a collection's global descriptors, by measuring on them, and build it.

    Prints what each kind finds and costs. Images that are added or removed later need no new one; a collection that has
    grown to several times its size deserves to be tuned again.
    """
    from resight.search.collection import Collection
    from resight.search.index_tuning import Wanted

    with Collection.open(collection, write=True) as opened:
        if exact:
            opened.drop_index()
            output.line("all images are compared from now on")
            return
        verify = opened.recipe.verify
        depth = k or (10 if verify is None else verify.shortlist)
        wanted = Wanted(recall, None if memory is None else parse_size(memory), 60 * build, depth)
        with Reporter(quiet) as reporter:
            tuned = opened.tune(wanted, only=kind or (), seed=seed, progress=reporter)
    if json:
        output.line(output.as_json({"chosen": asdict(tuned.chosen), "trials": [asdict(t) for t in tuned.trials]}))
        return
    _table(tuned, depth)


def parse_size(text: str) -> int:
    """Bytes of ``500M`` or ``2G`` (of 1024). Raises QueryError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None or not float(found.group(1)):
        raise QueryError(f"{text!r} is no size: write a number with K, M, G or T behind it, as in 500M or 2G")
    return int(float(found.group(1)) * _UNITS[found.group(2).upper()])


def _table(tuned: "Tuned", k: int) -> None:
    head = ("images", "index", "depth", "effort", f"finds of {k}", "one at a time", "together", "an image", "built", "")
    output.columns([head, *(_row(trial, tuned.chosen) for trial in tuned.trials)], left=[1, 9])
    size = tuned.chosen.bytes * tuned.chosen.images
    if tuned.index is None and tuned.chosen.refused:
        output.line(f"none does, and comparing all images {tuned.chosen.refused}; they are compared nevertheless")
    elif tuned.index is None:
        output.line("nothing that does is faster than comparing all images, which is how they are searched")
    else:
        output.line(f"searched with {tuned.chosen.choice.kind} from now on: {output.size(size)} of memory")


def _row(trial: "Trial", chosen: "Trial") -> tuple[str, ...]:
    choice = trial.choice
    return (
        f"{trial.images:,}",
        choice.kind,
        f"{choice.depth}",
        f"{choice.effort}",
        f"{100 * trial.recall:.1f} %",
        f"{trial.rate:,.0f}/s",
        f"{trial.together:,.0f}/s",
        output.size(trial.bytes),
        f"{trial.build:,.1f} s",
        trial.refused or ("chosen" if trial is chosen else ""),
    )
