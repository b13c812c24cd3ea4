"""The verb that learns from labels: train."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from resight.cli import output
from resight.cli.options import Json, Quiet, Weights, Workers
from resight.cli.progress import Reporter
from resight.errors import QueryError, RecipeError


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name, TOML file or folder of the recipe.")],
    labelled: Annotated[
        Path, typer.Argument(metavar="SET", help="A folder with gt.json, or with one sub-folder an object.")
    ],
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where the trained recipe is written.")],
    weights: Weights = None,
    validate: Annotated[
        Path | None, typer.Option("--validate", metavar="SET", help="A set of other objects, to validate on.")
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option("--hold-out", metavar="SHARE", help="Validate on a share of SET's objects instead, such as 0.2."),
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option("--settings", metavar="NAME|TOML", help="Ready settings by name, or a file; see the manual."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as loss.margin=0.7. Repeatable."),
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", metavar="KIND", help="Such as siamese or arcface.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N")] = None,
    rate: Annotated[float | None, typer.Option(metavar="RATE", help="Of learning, such as 1e-5.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, metavar="N", help="Photos that a step learns from.")] = None,
    chunk: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Photos through the network at once: bounds memory.")
    ] = None,
    side: Annotated[int | None, typer.Option(min=32, metavar="PIXELS", help="Of the pictures learned from.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything that is drawn.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, metavar="N", help="GPUs, or processes of a CPU.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="32-true, bf16-mixed or 16-mixed.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted training left in FOLDER.")
    ] = False,
    workers: Workers = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe's network on a labelled set, and write a recipe that has it.

    The result is a folder to name with --recipe. With --validate or --hold-out the weights that do best on objects not
    learned from are kept, and mAP on them is printed before and after. Ctrl-C leaves a checkpoint for --resume.
    """
    try:
        from resight.learning.run import FACTS
        from resight.learning.run import train as run
        from resight.learning.settings import load_settings
    except ModuleNotFoundError as error:
        raise RecipeError(f"training needs {error.name}: pip install 'resight[deep,train]'") from error
    if validate is not None and hold_out is not None:
        raise QueryError("--validate and --hold-out both say what to validate on: give one of them")
    chosen = load_settings(
        settings,
        changes or (),
        loss=None if loss is None else {"kind": loss},
        epochs=epochs,
        rate=rate,
        batch=batch,
        chunk=chunk,
        side=side,
        seed=seed,
        devices=devices,
        accelerator=accelerator,
        precision=precision,
    )
    with Reporter(quiet) as reporter:
        written = run(
            recipe,
            labelled,
            settings=chosen,
            into=into,
            validate=validate if hold_out is None else hold_out,
            weights=weights,
            resume=resume,
            workers=workers,
            progress=reporter.report,
        )
    facts = json_module.loads((written / FACTS).read_text(encoding="utf-8"))
    if json:
        output.line(output.as_json({"into": str(written), **facts}))
        return
    before, after = facts["before"], facts["after"]
    if after is None:
        output.line(f"nothing was held out, so how well it does is not known: {written}")
        return
    output.line(f"mAP on what was held out {_percent(before)} before, {_percent(after)} after: {written}")
    if _value(before) is not None and (_value(after) or 0.0) < (_value(before) or 0.0):
        output.note("training made it worse: try a lower --rate, or fewer layers (--set learns.layers=layer4)")


def _value(figures: dict[str, Any]) -> float | None:
    value: float | None = figures.get("mean_average_precision")
    return value


def _percent(figures: dict[str, Any]) -> str:
    value = _value(figures)
    return "unknown" if value is None else f"{100 * value:.1f}"
