"""The verb that learns: train."""

import json as json_module
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resight.cli import output
from resight.cli.options import Json, Quiet, Weights, Workers
from resight.cli.progress import Reporter
from resight.errors import QueryError, RecipeError

if TYPE_CHECKING:
    from resight.learning.optimisation import Optimisation


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
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Where the trained recipe is written.")],
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="Name, TOML file or folder of the recipe; none with --procedural."),
    ] = None,
    labelled: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SET | NAME=SET…",
            help="A folder with gt.json, or with one sub-folder an object. Or several, each with a name, from which it "
            "learns at once.",
        ),
    ] = None,
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(
            "--unlabelled", metavar="PHOTOS", help="Learn from photos of which nothing is known, in place of SET."
        ),
    ] = None,
    mine: Annotated[
        str | None, typer.Option("--mine", metavar="KIND", help="How, for --unlabelled: verified, mom, kmeans, …")
    ] = None,
    procedural: Annotated[
        bool,
        typer.Option("--procedural", help="Learn recipe compact from nothing but pictures that resight renders."),
    ] = False,
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher", metavar="FILE", help="With --procedural: weights of a network to learn from as well."
        ),
    ] = None,
    old: Annotated[
        str | None,
        typer.Option(
            "--old",
            metavar="RECIPE",
            help="Learn vectors that may be compared with this recipe's, so that its collections can be searched by "
            "the new one; more by --set old.distil=1, old.photos=SET, old.replay=0.5.",
        ),
    ] = None,
    weights: Weights = None,
    validate: Annotated[
        list[str] | None,
        typer.Option(
            "--validate",
            metavar="SET | NAME=SET",
            help="A set of other objects, to validate on; repeatable where sets have names.",
        ),
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option(
            "--hold-out", metavar="SHARE", help="Validate on a share of each SET's objects instead, such as 0.2."
        ),
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
    """Train a network on a labelled set, --unlabelled photos or --procedural pictures; write a recipe that has it.

    The result is a folder to name with --recipe. With --validate or --hold-out, the weights that do best on
    objects not learned from are kept, and mAP on those is printed before and after.
    Ctrl-C leaves a checkpoint for --resume.
    """
    try:
        from resight.learning.procedural.run import train_procedural
        from resight.learning.procedural.training import ProceduralTraining, load_procedural_settings
        from resight.learning.run import FACTS
        from resight.learning.run import train as run
        from resight.learning.settings import Training, load_settings
        from resight.learning.unlabelled.run import train_unlabelled
        from resight.learning.unlabelled.settings import UnlabelledTraining, load_unlabelled_settings
    except ModuleNotFoundError as error:
        raise _lacking(error) from error
    if procedural:
        _check_alone(recipe=recipe, unlabelled=unlabelled, hold_out=hold_out, mine=mine, weights=weights, old=old)
    elif teacher is not None:
        raise QueryError("--teacher is of --procedural")
    else:
        _check_learned_from(recipe, labelled, unlabelled, validate, hold_out, mine)
        if unlabelled and old is not None:
            raise QueryError("--old is of a labelled SET, whose objects the new recipe learns")
    load: Callable[..., Optimisation] = load_settings
    if procedural:
        load = load_procedural_settings
    elif unlabelled:
        load = partial(load_unlabelled_settings, mining=mine)
    chosen = load(
        settings,
        [*(changes or ()), *([] if old is None else [f"old.recipe={json_module.dumps(old)}"])],
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
    how: dict[str, Any] = {"into": into, "resume": resume, "workers": workers}
    learned, held_out = one_or_named(labelled or (), "SET"), one_or_named(validate or (), "--validate")
    one_held_out = held_out if isinstance(held_out, Path) else None
    if (procedural or unlabelled) and one_held_out is not held_out:
        raise QueryError("--validate NAME=SET is of several labelled sets by their names: give one SET")
    with Reporter(quiet) as reporter:
        how["progress"] = reporter.report
        if isinstance(chosen, ProceduralTraining):
            written = train_procedural(settings=chosen, teacher=teacher, validate=one_held_out, **how)
        elif unlabelled and isinstance(chosen, UnlabelledTraining):
            written = train_unlabelled(
                str(recipe), unlabelled, settings=chosen, validate=one_held_out, weights=weights, **how
            )
        elif learned is not None and isinstance(chosen, Training):
            given = held_out if hold_out is None else hold_out
            written = run(str(recipe), learned, settings=chosen, validate=given, weights=weights, **how)
    facts = json_module.loads((written / FACTS).read_text(encoding="utf-8"))
    if json:
        output.line(output.as_json({"into": str(written), **facts}))
        return
    before, after = facts["before"], facts["after"]
    if "sets" in facts:
        _tell_sets(facts["sets"], written)
        return
    if after is None and procedural:
        best = facts["phases"]["procedural"]["best"]
        said = "nothing was held out" if best is None else f"matching and recall of rendered pairs held out {best:.3f}"
        output.line(f"{said}; of photographs nothing is known, which --validate SET measures: {written}")
        return
    if after is None:
        output.line(f"nothing was held out, so how well it does is not known: {written}")
        return
    output.line(f"mAP on what was held out {_percent(before)} before, {_percent(after)} after: {written}")
    if "none" in before:
        output.note(f"why nothing is known of it before: {before['none']}")
    if _value(before) is not None and (_value(after) or 0.0) < (_value(before) or 0.0):
        output.note("training made it worse: try a lower --rate, or fewer layers (--set learns.layers=layer4)")


def _tell_sets(sets: dict[str, Any], written: Path) -> None:
    """Of several sets that were learned from at once, mAP on what was held out of each."""
    rows: list[tuple[str, ...]] = [("mAP on what was held out", "before", "after", "after, as the set")]
    for name, facts in sets.items():
        rows.append(
            (name, *("–" if facts[when] is None else _percent(facts[when]) for when in ("before", "after", "own")))
        )
        if "none" in (facts["before"] or {}):
            output.note(f"why nothing is known of {name} before: {facts['before']['none']}")
    output.columns(rows, left=[0])
    output.line(str(written))


def one_or_named(texts: Sequence[str], what: str) -> Path | dict[str, str | Path] | None:
    """A folder, or several ``NAME=FOLDER`` by their names; None for none. Raises QueryError for others.

    A folder that is there is taken as it is written, also with = in its name.
    """
    if not texts:
        return None
    plain = [text for text in texts if "=" not in text or Path(text).exists()]
    if plain and len(texts) > 1:
        raise QueryError(f"{what}: {plain[0]} has no name among several sets: write NAME={plain[0]}")
    if plain:
        return Path(plain[0])
    named: dict[str, str | Path] = {}
    for text in texts:
        name, _, place = text.partition("=")
        if name in named:
            raise QueryError(f"{what}: two sets are called {name}: give each a name of its own")
        named[name] = Path(place)
    return named


def _check_learned_from(
    recipe: str | None,
    labelled: Sequence[str] | None,
    unlabelled: Sequence[Path] | None,
    validate: Sequence[str] | None,
    hold_out: float | None,
    mine: str | None,
) -> None:
    """QueryError unless a recipe is to learn from either labelled photos or others."""
    if recipe is None:
        raise QueryError("name the RECIPE that is trained, or say --procedural")
    if validate and hold_out is not None:
        raise QueryError("--validate and --hold-out both say what to validate on: give one of them")
    if (not labelled) == (not unlabelled):
        raise QueryError(
            "what is learned from is a labelled SET, photos by --unlabelled, or --procedural: give one of them"
        )
    if unlabelled and hold_out is not None:
        raise QueryError("--hold-out is a share of labelled objects: with --unlabelled give --validate SET")
    if mine is not None and not unlabelled:
        raise QueryError("--mine says how photos without labels are mined: give them by --unlabelled")


def _check_alone(**others: object) -> None:
    """QueryError where --procedural comes with what it does without."""
    for name, value in others.items():
        if value is not None and value != []:
            what = "RECIPE or SET" if name == "recipe" else f"--{name.replace('_', '-')}"
            more = " (or RESIGHT_WEIGHTS): weights to begin with are --set initial=FILE" if name == "weights" else ""
            raise QueryError(f"--procedural trains recipe compact on rendered pictures: leave out {what}{more}")


def _value(figures: dict[str, Any]) -> float | None:
    value: float | None = figures.get("mean_average_precision")
    return value


def _percent(figures: dict[str, Any]) -> str:
    value = _value(figures)
    return "unknown" if value is None else f"{100 * value:.1f}"
