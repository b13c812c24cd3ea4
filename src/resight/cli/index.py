"""The verbs that write a collection: index, remove, refit."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import (
    CollectionPath,
    Json,
    Photos,
    Quiet,
    RecipeName,
    Weights,
    Workers,
    chosen_recipe,
)
from resight.cli.progress import Reporter, clock
from resight.errors import CollectionError, QueryError
from resight.images.sources import find_sources

if TYPE_CHECKING:
    from resight.search.collection import AddReport, Collection


def index(
    photos: Photos,
    into: Annotated[
        Path,
        typer.Option("--into", metavar="COLLECTION", help="The collection's folder; made if there is none."),
    ],
    recipe: RecipeName = None,
    weights: Weights = None,
    workers: Workers = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any file failed.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a collection of photos, or bring one up to date with them.

    What is already indexed and unchanged is skipped, so an interrupted run goes on where it stopped. A
    collection keeps the recipe it was made with; --recipe chooses it when it is made.
    """
    # Before a collection is made, so that a mistyped name leaves nothing behind. Standard input is read only once.
    find_sources([photo for photo in photos if photo not in ("-", "@-")], on_problem=lambda origin, reason: None)
    with open_or_create(into, recipe, weights) as collection:
        try:
            with Reporter(quiet) as reporter:
                report = collection.add(photos, workers=workers, progress=reporter)
        except KeyboardInterrupt as error:
            output.note(f"stopped. {len(collection):,} images are safe in {into}; the same command goes on from here")
            raise typer.Exit(130) from error
    if json:
        output.line(output.as_json(asdict(report)))
    elif not quiet:
        _summary(report, into)
    if report.failed:
        files = "1 file" if report.failed == 1 else f"{report.failed:,} files"
        output.note(f"{files} could not be indexed: see `resight failures {into}`")
        if strict:
            raise typer.Exit(1)


def open_or_create(path: Path, recipe: str | None, weights: Path | None) -> "Collection":
    """The collection at `path` open for writing, made with the recipe if there is none yet.

    Raises CollectionError if there is one and it was made with another recipe than the one named.
    """
    from resight.search.collection import Collection

    if not Collection.exists(path):
        return Collection.create(path, chosen_recipe(recipe, weights))
    collection = Collection.open(path, write=True)
    if recipe is None and weights is None:
        return collection
    try:
        wanted = chosen_recipe(recipe or collection.recipe.name, weights)
        if wanted != collection.recipe:
            raise CollectionError(
                f"{path} was made with recipe {collection.recipe.name}, and {wanted.name} as named differs: "
                "to add to this one leave out --recipe and --weights (RESIGHT_RECIPE, RESIGHT_WEIGHTS); "
                "for another recipe choose another --into"
            )
    except BaseException:
        collection.__exit__(None, None, None)
        raise
    return collection


def _summary(report: "AddReport", into: Path) -> None:
    facts = {
        "added": report.added,
        "changed": report.changed,
        "moved": report.moved,
        "unchanged": report.unchanged,
        "vanished": report.vanished,
        "failed": report.failed,
    }
    told = ", ".join(f"{count:,} {name}" for name, count in facts.items() if count) or "no photos"
    described = report.added + report.changed
    rate = f", {described / report.seconds:.1f} images/s" if described and report.seconds else ""
    output.line(f"{told} in {clock(report.seconds)}{rate}: {into}")
    if report.vanished:
        output.line(f"Vanished files are still found; `resight remove {into} --missing` forgets them.")
    if report.advice:
        output.line(report.advice)


def remove(
    collection: CollectionPath,
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="WHAT", help="id:N, a file, or a folder or archive with all that is in it."),
    ] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Images whose file is gone.")] = False,
    quiet: Quiet = False,
) -> None:
    """Take images out of a collection. Photos are not touched. Exits with 1 if none matched."""
    from resight.search.collection import Collection

    if not what and not missing:
        raise QueryError("say what to remove: id:N, a file or a folder, or --missing")
    with Collection.open(collection, write=True) as opened:
        count = opened.remove([selector(text) for text in what or ()], missing=missing)
    if not quiet:
        output.line("1 image removed" if count == 1 else f"{count:,} images removed")
    if not count and not missing:
        raise typer.Exit(1)


def selector(text: str) -> int | str:
    """``id:7`` as 7; anything else as an absolute path. Raises QueryError for an id that is no number."""
    if not text.startswith("id:"):
        return os.path.abspath(text)  # noqa: PTH100 - like the collection, tidies `..` without following links
    if not text[3:].isdecimal():
        raise QueryError(f"{text}: an id is a whole number, as in id:7; write ./{text} for a file of that name")
    return int(text[3:])


def refit(collection: CollectionPath, quiet: Quiet = False) -> None:
    """Learn the codebook again from the images a collection has now, and encode them anew."""
    from resight.search.collection import Collection

    with Collection.open(collection, write=True) as opened, Reporter(quiet) as reporter:
        done = opened.refit(progress=reporter)
    output.line(done)
