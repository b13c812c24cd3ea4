"""The verbs of a collection as a whole: info, failures, verify, repair, export."""

from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from resight.cli import output
from resight.cli.options import CollectionPath, Json, Quiet
from resight.cli.progress import Reporter
from resight.errors import QueryError

FORMATS = ("npz", "safetensors", "csv", "json")


def info(collection: CollectionPath, json: Json = False) -> None:
    """What a collection holds and how it was made."""
    from resight.search.collection import Collection

    with Collection.open(collection) as opened:
        facts, adapters, default = opened.info(), opened.recipe.adapters, opened.adapter
    if json:
        output.line(output.as_json(asdict(facts)))
        return
    book = facts.codebook
    rows = [
        ("collection", facts.path),
        ("recipe", facts.recipe),
        ("fingerprint", facts.fingerprint),
        ("images", f"{facts.images:,}"),
        ("files gone", f"{facts.missing:,}"),
        ("failures", f"{facts.failures:,}"),
        ("not yet encoded", f"{facts.pending:,}"),
        ("on disk", f"{output.size(facts.bytes_on_disk)}, {output.size(facts.bytes_per_image)} an image"),
    ]
    if book is not None:
        rows.append(("codebook", f"{book['words']:,} words, fitted on {book['fitted_on']}"))
    if (index := facts.index) is not None:
        size = output.size(index["bytes"])
        rows.append(("index", f"{index['choice']['kind']}, of {index['images']:,} images, {size} of memory"))
    if adapters is not None:
        rows.append(("adapters", f"{', '.join(adapters.names)}; {default} unless a search says --as"))
    if facts.advice:
        rows.append(("advice", facts.advice))
    output.columns([(name, output.printable(str(value))) for name, value in rows], left=[0])


def failures(
    collection: CollectionPath,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a heading.")] = False,
) -> None:
    """Files that could not be indexed, and why."""
    from resight.search.collection import Collection

    if json and csv:
        raise QueryError("--json and --csv exclude each other: name one")
    with Collection.open(collection) as opened:
        found = opened.failures()
        if json:
            output.line(output.as_json({"failures": [{"path": f.origin, "reason": f.reason} for f in found]}))
        elif csv:
            output.csv_rows(chain([("path", "reason")], ((f.origin, f.reason) for f in found)))
        else:
            for failure in found:
                output.line(f"{output.printable(failure.origin)}: {output.printable(failure.reason)}")


def verify(collection: CollectionPath, quiet: Quiet = False) -> None:
    """Check a collection against its checksums. Exits with 1 if anything is wrong."""
    from resight.search.collection import Collection

    with Collection.open(collection) as opened, Reporter(quiet) as reporter:
        problems = opened.verify(progress=reporter)
    for problem in problems:
        output.line(output.printable(problem))
    if problems:
        raise typer.Exit(1)
    if not quiet:
        output.line(f"{collection} is sound")


def repair(collection: CollectionPath, json: Json = False, quiet: Quiet = False) -> None:
    """Make again what `resight verify` finds damaged, from the photos and what is sound.

    Exits with 1 if some of it cannot be.
    """
    from resight.search.collection import Collection

    with Collection.open(collection, write=True) as opened, Reporter(quiet) as reporter:
        done = opened.repair(progress=reporter)
    if json:
        output.line(output.as_json(asdict(done)))
    else:
        for name, lines in asdict(done).items():
            if lines and not (quiet and name == "mended"):
                output.line(f"{name}:")
            for line in lines if not (quiet and name == "mended") else ():
                output.line(f"  {output.printable(line)}")
        if not quiet and not done.left:
            output.line(f"{collection} is sound")
    if done.left:
        raise typer.Exit(1)


def export(
    collection: CollectionPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="|".join(FORMATS), help="By default told from OUT's suffix."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a collection's vectors (npz, safetensors) or its catalogue (csv, json) to a file."""
    from resight.search.collection import Collection

    form = form or out.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise QueryError(f"{out}: {form or 'no suffix'} is not an export format; use one of {', '.join(FORMATS)}")
    with Collection.open(collection) as opened:
        count = opened.export(out, format=form)
    if not quiet:
        output.line(f"{count:,} images written to {out}")
