"""The verbs about what is known of images besides their pixels: metadata import, show, keys."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import CollectionPath, Json, Quiet
from resight.errors import QueryError

if TYPE_CHECKING:
    from resight.search.collection import Collection
    from resight.store.facts import Value
    from resight.store.importing import ImportReport
    from resight.store.metadata import Key

_BRIEF = 40  # characters of a value in a list of several

app = typer.Typer(no_args_is_help=True, help="What is known of images besides their pixels.")


@app.command("import")
def import_(
    collection: CollectionPath,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help=".csv with a heading, or .json; one row or object an image.")
    ],
    key: Annotated[str, typer.Option("--key", metavar="NAME", help="Of the column with the images' paths.")] = "path",
    strict: Annotated[
        bool, typer.Option("--strict", help="Import nothing if any row is not of just one image.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give images facts from a file, all or none.

    A row's path is absolute, or from FILE's folder, or what the path of just one image ends in.
    """
    from resight.search.collection import Collection

    with Collection.open(collection, write=True) as opened:
        report = opened.import_metadata(file, key=key, strict=strict)
    if json:
        output.line(output.as_json(asdict(report)))
    tell_import(report, quiet or json)


def tell_import(report: "ImportReport", quiet: bool) -> None:
    """What an import did; which rows were left out also if `quiet`."""
    if not quiet:
        images = "1 image" if report.images == 1 else f"{report.images:,} images"
        output.line(f"{report.facts:,} {'fact' if report.facts == 1 else 'facts'} given to {images}")
    if report.problems:
        output.note(report.shown)


@app.command("show")
def show(
    collection: CollectionPath,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="id:N or a path.")],
    json: Json = False,
) -> None:
    """What is known of an image."""
    from resight.search.collection import Collection

    with Collection.open(collection) as opened:
        entry = opened.entry(_id(opened, image))
        facts = opened.metadata(entry.id)
    if json:
        output.line(output.as_json({"id": entry.id, "path": entry.origin, "metadata": facts}))
    elif facts:
        output.columns([(output.printable(key), _shown(value)) for key, value in facts.items()], left=[0])


@app.command("keys")
def keys(collection: CollectionPath, json: Json = False) -> None:
    """Which facts there are: the kind of their values, how many images have one, and which values."""
    from resight.search.collection import Collection

    with Collection.open(collection) as opened:
        found = opened.metadata_keys()
    if json:
        output.line(output.as_json({"keys": [asdict(key) for key in found]}))
    elif found:
        rows = [(output.printable(key.name), key.kind, f"{key.images:,}", _values(key)) for key in found]
        output.columns([("key", "kind", "images", "values"), *rows], left=[0, 1])


def _id(collection: "Collection", image: str) -> int:
    """The id of an image named by id or path; QueryError for an unknown path."""
    from resight.cli.index import selector

    named = selector(image)
    found = collection.find(named) if isinstance(named, str) else named
    if found is None:
        raise QueryError(f"{image}: no image of the collection is at {named}; `resight export` lists all")
    return found


def _shown(value: "Value") -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return output.printable(str(value))


def _values(key: "Key") -> str:
    """The range of numbers, the most frequent of others."""
    if key.kind == "number":
        return f"{key.low} to {key.high}"
    more = ", …" if sum(count for _, count in key.frequent) < key.images else ""
    return ", ".join(f"{_brief(_shown(value))} ({count:,})" for value, count in key.frequent) + more


def _brief(text: str) -> str:
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"
