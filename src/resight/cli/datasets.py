"""The field's data sets: list them, get what has a public address, check what is in a folder."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from resight.cli import output
from resight.cli.options import Json, Quiet
from resight.cli.progress import Reporter

app = typer.Typer(no_args_is_help=True, help="The published data sets: list, get and check them.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="One of `resight datasets list`.")]


@app.command("list")
def listing(json: Json = False) -> None:
    """List the data sets: size, protocols, source and licence; the first protocol is the usual one."""
    from resight.evaluation.datasets import DATASETS

    if json:
        kept = ("name", "images", "queries", "protocols", "size", "source", "address", "licence", "by_hand")
        rows = [{key: getattr(each, key) for key in kept} for each in DATASETS.values()]
        output.line(output.as_json(rows))
        return
    head = ("name", "images", "queries", "archives", "protocols", "get", "source", "licence")
    table = [
        (
            each.name,
            _count(each.images),
            _count(each.queries),
            each.size,
            ", ".join(each.protocols),
            _way(bool(each.files), bool(each.by_hand)),
            f"{each.source}; {each.address}",
            each.licence,
        )
        for each in DATASETS.values()
    ]
    output.columns([head, *table], left=[0, 3, 4, 5, 6])


@app.command()
def get(
    name: Name,
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="The set's folder.")],
    keep: Annotated[bool, typer.Option("--keep-archives", help="Keep archives that are unpacked.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a set's public files, verify and unpack them; run it again to go on after an interruption.

    What has no public address is listed, and fetched by hand; the exit code is then 1.
    """
    from resight.evaluation.datasets import find_dataset, obtain

    dataset = find_dataset(name)
    with Reporter(quiet) as reporter:
        found = obtain(dataset, into, keep=keep, report=reporter.report)
    for address in found.fetched:
        output.line(address)
    if found.unverified:
        output.note(
            f"{len(found.unverified)} of {len(dataset.files)} files have no published checksum: only their lengths and "
            f"archives were checked; their sha256 are in {into / 'fetched.json'}"
        )
    output.note(f"licence: {dataset.licence}; {dataset.address}")
    for sentence in found.by_hand:
        output.note(f"by hand: {sentence}")
    if found.by_hand:
        raise typer.Exit(1)


@app.command()
def check(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The set's folder.")],
    protocol: Annotated[str | None, typer.Option("--protocol", metavar="P", help="Only this one.")] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every image: slow.")] = False,
    json: Json = False,
) -> None:
    """Say whether a set is whole and its ground truth fits; the exit code is 1 where a protocol's set is not."""
    from resight.evaluation.datasets import check_dataset
    from resight.evaluation.datasets.check import unreadable

    found = check_dataset(name, folder, [protocol] if protocol is not None else ())
    broken = list(unreadable(name, folder)) if decode and found[0].images else []
    if json:
        output.line(output.as_json({"protocols": [dataclasses.asdict(each) for each in found], "unreadable": broken}))
    else:
        head = ("protocol", "images", "queries", "positives", "problem")
        rows = [
            (
                each.protocol,
                str(each.images),
                str(each.queries),
                str(each.positives),
                output.printable(each.problem) or "–",
            )
            for each in found
        ]
        output.columns([head, *rows], left=[0])
        for path, reason in broken:
            output.line(f"{output.printable(path)}: {reason}")
    if broken or any(each.problem for each in found):
        raise typer.Exit(1)


def _count(number: int) -> str:
    return f"{number:,}" if number else "–"


def _way(public: bool, by_hand: bool) -> str:
    return "get" if not by_hand else "get and by hand" if public else "by hand"
