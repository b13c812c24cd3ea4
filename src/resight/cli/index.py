"""The verbs that write a collection: index, remove, refit."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.metadata import tell_import
from resight.cli.options import (
    Cluster,
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
from resight.store.sidecar import read_sidecar

if TYPE_CHECKING:
    from resight.recipes.recipe import Recipe
    from resight.search.collection import AddReport, Collection

FAILURES = 20  # on a cluster, those that are named; on one machine `resight failures` lists them


def index(
    photos: Photos,
    into: Annotated[
        str,
        typer.Option(
            "--into",
            metavar="COLLECTION",
            help="The collection's folder; made if there is none. With --cluster also an fsspec URL.",
        ),
    ],
    recipe: RecipeName = None,
    weights: Weights = None,
    workers: Workers = None,
    metadata: Annotated[
        Path | None,
        typer.Option("--metadata", metavar="FILE", help="Then import this, as `resight metadata import` does."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any file failed.")] = False,
    cluster: Cluster = None,
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, metavar="N", help="With --cluster: of a new collection, else 8.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a collection of photos, or bring one up to date with them.

    What is already indexed and unchanged is skipped, so an interrupted run goes on where it stopped. A
    collection keeps the recipe it was made with; --recipe chooses it when it is made.
    """
    # Before a collection is made, so that a mistyped name leaves nothing behind. Standard input is read only once.
    find_sources([photo for photo in photos if photo not in ("-", "@-")], on_problem=lambda origin, reason: None)
    if metadata is not None:
        read_sidecar(metadata)
    if shards is not None and cluster is None:
        raise QueryError("--shards is of a collection on a cluster: give --cluster too")
    imported = None
    if cluster is not None:
        if metadata is not None:
            raise QueryError("--metadata is not done with --cluster: leave it out, or index on one machine")
        report = _on_cluster(photos, into, cluster, shards, _named(recipe, weights), quiet)
    else:
        with open_or_create(Path(into), recipe, weights) as collection:
            try:
                with Reporter(quiet) as reporter:
                    report = collection.add(photos, workers=workers, progress=reporter)
            except KeyboardInterrupt as error:
                kept = f"{len(collection):,} images are safe in {into}"
                output.note(f"stopped. {kept}; the same command goes on from here")
                raise typer.Exit(130) from error
            imported = None if metadata is None else collection.import_metadata(metadata)
    if json:
        output.line(output.as_json(asdict(report) | ({} if imported is None else {"metadata": asdict(imported)})))
    elif not quiet:
        _summary(report, into)
    if imported is not None:
        tell_import(imported, quiet or json)
    if report.failed:
        files = "1 file" if report.failed == 1 else f"{report.failed:,} files"
        if cluster is None:
            output.note(f"{files} could not be indexed: see `resight failures {into}`")
        else:
            output.note(f"{files} could not be indexed:")
            _tell_failures(into)
        if strict:
            raise typer.Exit(1)


def _on_cluster(
    photos: list[str], into: str, cluster: str, shards: int | None, recipe: "Recipe | None", quiet: bool
) -> "AddReport":
    from resight.cluster.indexing import index as index_on_cluster

    try:
        with Reporter(quiet) as reporter:
            return index_on_cluster(into, photos, cluster=cluster, recipe=recipe, shards=shards, progress=reporter)
    except KeyboardInterrupt as error:
        output.note(f"stopped. What is described is kept in {into}; the same command goes on from here")
        raise typer.Exit(130) from error


def _named(recipe: str | None, weights: Path | None) -> "Recipe | None":
    """The recipe that a command line names, or None where it names none."""
    return None if recipe is None and weights is None else chosen_recipe(recipe, weights)


def _tell_failures(into: str) -> None:
    from resight.cluster.collection import failures

    found = failures(into)
    for failure in found[:FAILURES]:
        output.note(f"  {output.printable(failure.origin)}: {failure.reason}")
    if len(found) > FAILURES:
        output.note(f"  and {len(found) - FAILURES:,} more: resight.cluster.collection.failures lists them")


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


def _summary(report: "AddReport", into: str) -> None:
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
        behind = opened.behind
    if not quiet:
        output.line("1 image removed" if count == 1 else f"{count:,} images removed")
    if behind is not None:
        output.note(behind)
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
