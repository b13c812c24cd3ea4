"""The verb that learns from labels: train."""

import json as json_module
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from resight.cli import output
from resight.cli.options import Json, Quiet, Weights, Workers
from resight.cli.progress import Reporter
from resight.errors import QueryError, RecipeError


def _list_settings(wanted: bool) -> None:
    """Print the names of ready settings and what each is of, and end."""
    if not wanted:
        return
    try:
        from resight.learning.settings import settings_names, settings_title
    except ModuleNotFoundError as error:
        raise _lacking(error) from error
    output.columns([(name, settings_title(name)) for name in settings_names()], left=[0])
    raise typer.Exit


def _show_settings(name: str | None) -> None:
    """Print ready settings, and end."""
    if name is None:
        return
    try:
        from resight.learning.settings import settings_text
    except ModuleNotFoundError as error:
        raise _lacking(error) from error
    output.line(settings_text(name).rstrip("\n"))
    raise typer.Exit


def _lacking(error: ModuleNotFoundError) -> RecipeError:
    return RecipeError(f"training needs {error.name}: pip install 'resight[deep,train]'")


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name, TOML file or folder of the recipe.")],
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where the trained recipe is written.")],
    labelled: Annotated[
        Path | None,
        typer.Argument(metavar="SET", help="A folder with gt.json, or with one sub-folder an object."),
    ] = None,
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(
            "--unlabelled", metavar="PHOTOS", help="Learn from photos of which nothing is known, in place of SET."
        ),
    ] = None,
    mine: Annotated[
        str | None, typer.Option("--mine", metavar="KIND", help="How, for --unlabelled: mom, kmeans, verified, …")
    ] = None,
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
        typer.Option("--settings", metavar="NAME|TOML", help="Ready settings by name, or a file of one's own."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as loss.margin=0.7. Repeatable."),
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", metavar="KIND", help="Such as siamese or arcface.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Passes over the photos.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="RATE", help="How far a step goes, such as 1e-5.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, metavar="N", help="Photos that a step learns from.")] = None,
    chunk: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Photos through the network at once: bounds memory.")
    ] = None,
    side: Annotated[
        int | None, typer.Option(min=32, metavar="PIXELS", help="Side of the pictures learned from.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Decides everything that is drawn at random.")
    ] = None,
    devices: Annotated[int | None, typer.Option(min=1, metavar="N", help="GPUs, or processes of a CPU.")] = None,
    accelerator: Annotated[str | None, typer.Option(metavar="KIND", help="auto, cpu, cuda or mps.")] = None,
    precision: Annotated[str | None, typer.Option(metavar="KIND", help="32-true, bf16-mixed or 16-mixed.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted training left in FOLDER.")
    ] = False,
    workers: Workers = None,
    json: Json = False,
    quiet: Quiet = False,
    list_settings: Annotated[
        bool,
        typer.Option("--list-settings", is_eager=True, callback=_list_settings, help="List ready settings and exit."),
    ] = False,
    show_settings: Annotated[
        str | None,
        typer.Option(
            "--show-settings",
            metavar="NAME",
            is_eager=True,
            callback=_show_settings,
            help="Print ready settings as TOML, a beginning for one's own, and exit.",
        ),
    ] = None,
) -> None:
    """Train a recipe's network on a labelled set, or --unlabelled photos; write a recipe that has it.

    The result is a folder to name with --recipe. With --validate or --hold-out, the weights that do best on
    objects not learned from are kept, and mAP on those is printed before and after.
    Ctrl-C leaves a checkpoint for --resume.
    """
    try:
        from resight.learning.run import FACTS
        from resight.learning.run import train as run
        from resight.learning.settings import load_settings
        from resight.learning.unlabelled.run import train_unlabelled
        from resight.learning.unlabelled.settings import UnlabelledTraining, load_unlabelled_settings
    except ModuleNotFoundError as error:
        raise _lacking(error) from error
    if validate is not None and hold_out is not None:
        raise QueryError("--validate and --hold-out both say what to validate on: give one of them")
    if (labelled is None) == (not unlabelled):
        raise QueryError("what is learned from is a labelled SET, or photos by --unlabelled: give one of them")
    if unlabelled and hold_out is not None:
        raise QueryError("--hold-out is a share of labelled objects: with --unlabelled give --validate SET")
    if mine is not None and not unlabelled:
        raise QueryError("--mine says how photos without labels are mined: give them by --unlabelled")
    load = partial(load_unlabelled_settings, mining=mine) if unlabelled else load_settings
    chosen = load(
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
    how: dict[str, Any] = {"into": into, "weights": weights, "resume": resume, "workers": workers}
    with Reporter(quiet) as reporter:
        how["progress"] = reporter.report
        if unlabelled and isinstance(chosen, UnlabelledTraining):
            written = train_unlabelled(recipe, unlabelled, settings=chosen, validate=validate, **how)
        elif labelled is not None:
            given = validate if hold_out is None else hold_out
            written = run(recipe, labelled, settings=chosen, validate=given, **how)
    facts = json_module.loads((written / FACTS).read_text(encoding="utf-8"))
    if json:
        output.line(output.as_json({"into": str(written), **facts}))
        return
    before, after = facts["before"], facts["after"]
    if after is None:
        output.line(f"nothing was held out, so how well it does is not known: {written}")
        return
    output.line(f"mAP on what was held out {_percent(before)} before, {_percent(after)} after: {written}")
    if "none" in before:
        output.note(f"why nothing is known of it before: {before['none']}")
    if _value(before) is not None and (_value(after) or 0.0) < (_value(before) or 0.0):
        output.note("training made it worse: try a lower --rate, or fewer layers (--set learns.layers=layer4)")


def _value(figures: dict[str, Any]) -> float | None:
    value: float | None = figures.get("mean_average_precision")
    return value


def _percent(figures: dict[str, Any]) -> str:
    value = _value(figures)
    return "unknown" if value is None else f"{100 * value:.1f}"
