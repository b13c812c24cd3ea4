"""Weights: make a recipe's folder of a published checkpoint, or show what a weights file holds."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from resight.cli import output
from resight.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Import a published retrieval checkpoint, or show a weights file.")


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A .pth, .pt, .pyth or .safetensors file.")],
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where weights and recipe are written.")],
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="NAME", help="Of which publication; recognised if not given.")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="NAME", help="timm's name, for a network's plain state dict.")
    ] = None,
    single_scale: Annotated[
        bool, typer.Option("--single-scale", help="Describe photos at their own size only, which is quicker.")
    ] = False,
) -> None:
    """Convert a published checkpoint into a folder to name with --recipe.

    It gets the network's weights, the whitening if the checkpoint has one, and the recipe if this version can
    compute what the publication does. Layouts: cirtorch, dirtorch, netvlad, how, delg, dinov2, keras, plain.
    """
    from resight.describe.published import import_weights

    for remark in import_weights(checkpoint, into, layout=layout, network=network, single_scale=single_scale):
        output.note(remark)
    output.line(str(into))


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A weights file.")],
    as_json: Json = False,
) -> None:
    """List what a weights file holds: its layout, the facts beside the tensors, and each tensor."""
    from resight.networks.layouts.contents import contents

    facts = contents(file)
    if as_json:
        output.line(output.as_json(facts))
        return
    output.line(output.printable(f"layout  {facts['layout'] or 'not recognised'}"))
    for name, value in _flat(facts["facts"]):
        output.line(output.printable(f"{name}  {value}"))
    rows = [
        (output.printable(name), tensor["dtype"], "×".join(map(str, tensor["shape"])) or "scalar")
        for name, tensor in facts["tensors"].items()
    ]
    output.columns([("tensor", "dtype", "shape"), *rows], left=[0, 1])


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = str(value)
            yield f"{prefix}{name}", text if len(text) <= 100 else f"{text[:99]}…"
