"""Networks: list those that a recipe can name, or show one's layers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from resight.cli import output
from resight.cli.options import Json
from resight.errors import RecipeError

app = typer.Typer(no_args_is_help=True, help="List the networks that a recipe can name, or show one's layers.")


@app.command("list")
def listing(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Part of a name, or a pattern with * or ?.")] = "*",
) -> None:
    """List the networks, one a line with its family: the well-known families first, then the others."""
    from resight.networks.architectures import network_names

    rows = network_names(pattern)
    if not rows:
        raise RecipeError(f"no network matches {pattern!r}; `resight networks list` names them all")
    output.columns(rows, left=[0])


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `resight networks list`.")], json: Json = False
) -> None:
    """Show a network's layers, whose names a recipe's `layer` takes, and what it needs.

    Nothing is downloaded or computed. A recipe's `layer` may also be the dotted path of any other module.
    """
    facts = network_facts(name)
    if json:
        output.line(output.as_json(facts))
        return
    heading = [
        ("network", facts["name"]),
        ("parameters", f"{facts['parameters'] / 1e6:.1f} million"),
        ("weights", facts["weights"] or "none known to download: give a file by --weights"),
        ("mean", " ".join(f"{value:g}" for value in facts["mean"])),
        ("std", " ".join(f"{value:g}" for value in facts["std"])),
        ("sides", f"multiples of {facts['multiple']} pixels, at least {facts['least']}"),
    ]
    output.columns(heading, left=[0])
    output.line()
    titles = ("layer", "kind", "channels", "stride", "module")
    rows = [
        (layer["name"], layer["kind"], str(layer["channels"]), str(layer["stride"] or "-"), layer["module"] or "-")
        for layer in facts["layers"]
    ]
    output.columns([titles, *rows], left=[0, 1])


def network_facts(name: str) -> dict[str, Any]:
    """What ``resight networks show`` tells, as JSON-able values.

    parameters: their number, without timm's classifier. weights: where they are downloaded from, or the file that
        comes with resight, or None.
    multiple, least: of the sides of pictures, in pixels, for the layer ``features``.
    Raises RecipeError where there is no such network or it takes pictures of one size only.
    """
    from resight.networks.sketch import Sketch

    sketch = Sketch(name)
    config: Any = sketch.network.pretrained_cfg
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in sketch.network.parameters()),
        "weights": _weights(sketch.network, config),
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "multiple": sketch.multiple,
        "least": sketch.least(["features"]),
        "layers": [asdict(layer) for layer in sketch.layers()],
    }


def _weights(network: object, config: Mapping[str, Any]) -> str | None:
    from resight.networks.compact import Compact, compact_weights

    if isinstance(network, Compact):
        try:
            return str(compact_weights())
        except RecipeError:
            return None
    hub_id = config.get("hf_hub_id")
    return f"https://huggingface.co/{hub_id}" if hub_id else config.get("url") or None
