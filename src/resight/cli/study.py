"""Studies: what a part of a system, or the whole of it, does to mAP on labelled sets."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resight.cli import output
from resight.cli.options import DEFAULT_RECIPE, Quiet, RecipeName, Weights, Workers, chosen_recipe
from resight.cli.progress import Reporter
from resight.describe.folder import check_empty
from resight.errors import RecipeError, ResightError

if TYPE_CHECKING:
    from resight.evaluation.labelled import LabelledSet
    from resight.evaluation.plot import Study
    from resight.recipes import Recipe
    from resight.robustness.attack_study import AttackStudy
    from resight.robustness.curves import Invariance
    from resight.robustness.incremental import IncrementalStudy
    from resight.robustness.joint import JointStudy

app = typer.Typer(no_args_is_help=True, help="Compare parts of a network, networks, or whole systems on labelled sets.")

Sets = Annotated[list[Path], typer.Argument(metavar="SET", help="As for `evaluate`; a column each.")]
Into = Annotated[
    Path,
    typer.Option(
        "--into", metavar="FOLDER", help="Where table.md, results.csv, results.json and plot.svg are written."
    ),
]
Fit = Annotated[
    list[Path] | None,
    typer.Option("--fit", metavar="PHOTOS", help="Other photos than the sets', to learn projections from."),
]
Sample = Annotated[int, typer.Option(min=1, metavar="N", help="Learn from at most N of the photos.")]
Seed = Annotated[int, typer.Option(help="Chooses the sample.")]


@app.command()
def pooling(
    sets: Sets,
    into: Into,
    recipe: RecipeName = None,
    weights: Weights = None,
    fit: Fit = None,
    dimensions: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Of whitened vectors; by default 512, or as many as there can be."),
    ] = None,
    sample: Sample = 5000,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compare the poolings of the recipe's layer; with --fit also those that learn, and each PCA-whitened."""
    from resight.evaluation import study

    with _asked(into, quiet) as reporter:
        photos = study.draw_photos(fit, sample, seed) if fit else None
        chosen = chosen_recipe(recipe, weights)
        found = study.study_pooling(_load(sets), chosen, fit=photos, dimensions=dimensions, report=reporter.report)
    _finish(found, into)


@app.command()
def dimensions(
    sets: Sets,
    into: Into,
    fit: Annotated[
        list[Path], typer.Option("--fit", metavar="PHOTOS", help="Other photos than the sets', to learn from.")
    ],
    recipe: RecipeName = None,
    weights: Weights = None,
    sample: Sample = 5000,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compare lengths of the recipe's descriptor under PCA and PCA-whitening: 32, 64, … and all of it, or 8192."""
    from resight.evaluation import study

    with _asked(into, quiet) as reporter:
        photos = study.draw_photos(fit, sample, seed)
        found = study.study_dimensions(_load(sets), chosen_recipe(recipe, weights), fit=photos, report=reporter.report)
    _finish(found, into)


@app.command()
def layers(sets: Sets, into: Into, recipe: RecipeName = None, weights: Weights = None, quiet: Quiet = False) -> None:
    """Compare the layers of the recipe's network that are maps, each under GeM."""
    from resight.evaluation import study

    with _asked(into, quiet) as reporter:
        found = study.study_layers(_load(sets), chosen_recipe(recipe, weights), report=reporter.report)
    _finish(found, into)


@app.command()
def depth(
    sets: Sets,
    into: Into,
    network: Annotated[
        list[str],
        typer.Option(
            "--network",
            metavar="NAME[@LAYER][=WEIGHTS]",
            help="From shallow to deep, one each time; by default its last map, and the library's weights.",
        ),
    ],
    max_side: Annotated[int, typer.Option(min=32, help="Longest side of what the networks see, in pixels.")] = 1024,
    quiet: Quiet = False,
) -> None:
    """Compare networks, the last map of each under MAC."""
    from resight.evaluation.study_depth import study_depth

    with _asked(into, quiet) as reporter:
        recipes = network_recipes(network, max_side)
        found = study_depth(_load(sets), recipes, report=reporter.report)
    _finish(found, into)


@app.command()
def regions(
    sets: Sets,
    into: Into,
    recipe: RecipeName = None,
    weights: Weights = None,
    levels: Annotated[int, typer.Option(min=1, max=8, help="Of the grid, at most.")] = 3,
    quiet: Quiet = False,
) -> None:
    """Compare search by the whole image with search by more and more regions, each with a vector of its own."""
    from resight.evaluation.study_regions import study_regions

    with _asked(into, quiet) as reporter:
        chosen = chosen_recipe(recipe, weights)
        found = study_regions(_load(sets), chosen, levels=levels, report=reporter.report)
    _finish(found, into)


@app.command("training-set")
def training_set(
    sets: Sets,
    into: Into,
    recipe: Annotated[
        list[str],
        typer.Option("--recipe", metavar="[NAME=]RECIPE", help="What was fitted or trained, one each time."),
    ],
    stage: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            metavar="METHOD[:KEY=VALUE,…][+…]",
            help="A further re-ranking, as of `rerank`; + joins several. Repeatable: each is measured apart.",
        ),
    ] = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Compare what recipes were trained on, against how their results are re-ranked."""
    from resight.cli.rerank import parse_stage
    from resight.evaluation.study_training import study_training_set
    from resight.recipes import load_recipe

    rerankings = {text: [parse_stage(part) for part in text.split("+")] for text in stage or []}
    with _asked(into, quiet) as reporter:
        recipes = _recipes(recipe, load_recipe)
        found = study_training_set(_load(sets), recipes, rerankings, workers=workers, progress=reporter)
    _finish(found, into)


@app.command()
def invariance(
    sets: Sets,
    into: Into,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", metavar="[NAME=]RECIPE", help="A curve for each; by default the default recipe."),
    ] = None,
    turns: Annotated[
        list[int] | None,
        typer.Option("--turns", metavar="N", help="A further curve, of queries looked at in N turns. Repeatable."),
    ] = None,
    scales: Annotated[
        list[str] | None,
        typer.Option(
            "--scales", metavar="1,S,…", help="A further curve, of queries looked at in several sizes. Repeatable."
        ),
    ] = None,
    merge: Annotated[str, typer.Option(metavar="max|mean", help="How those are joined.")] = "max",
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CHANGE", help="Such as rotation or blur; by default every one. Repeatable."),
    ] = None,
    queries: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only N of each set's queries.")] = None,
    side: Annotated[int, typer.Option(min=64, help="Longest side of the queries, before they are changed.")] = 1024,
    seed: Annotated[int, typer.Option(help="Chooses the queries, and what is drawn in changing them.")] = 0,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Measure what is lost as queries are turned, shrunk, cut, covered, blurred, badly lit …; with areas of curves."""
    from resight.cli.queries import parse_looks
    from resight.evaluation import sample
    from resight.recipes import load_recipe
    from resight.robustness.invariance import study_invariance

    looks = parse_looks(turns or [], scales or [], merge)
    with _asked(into, quiet) as reporter:
        recipes = _recipes(recipe or [DEFAULT_RECIPE], load_recipe)
        found = study_invariance(
            [each if queries is None else sample(each, queries, seed) for each in _load(sets)],
            recipes,
            only=only or (),
            queries=looks,
            side=side,
            seed=seed,
            workers=workers,
            report=reporter.report,
        )
    _finish(found, into)


@app.command()
def attacks(
    sets: Sets,
    into: Into,
    recipe: Annotated[
        list[str],
        typer.Option("--recipe", metavar="[NAME=]RECIPE", help="What is attacked, by its own network. Repeatable."),
    ],
    weights: Weights = None,
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", metavar="KIND", help="untargeted, targeted, universal or black-box; by default all."),
    ] = None,
    defence: Annotated[
        list[str] | None,
        typer.Option(
            "--defence",
            metavar="KIND[:VALUE]",
            help="none, gaussian:σ, median:SIDE, jpeg:QUALITY or resize:LEAST; by default all. [verify] is one too.",
        ),
    ] = None,
    epsilon: Annotated[
        list[int] | None,
        typer.Option("--epsilon", min=1, max=64, help="By how much a value may change, of 255; by default 2, 4, 8."),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, metavar="N", help="Of a set, drawn; each is attacked anew.")] = 20,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Of a gradient, for each picture.")] = 10,
    asked: Annotated[int, typer.Option(min=2, metavar="N", help="Searches that a black-box attack makes.")] = 200,
    learners: Annotated[
        int, typer.Option(min=1, metavar="N", help="Other queries that a universal perturbation is learned on.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Alter queries unseen so that searches go wrong, and measure what defences give back; writes report.html too."""
    from resight.robustness.attack_bench import ATTACKS, Effort
    from resight.robustness.defences import DEFENCES
    from resight.robustness.study_attacks import EPSILONS, study_attacks

    with _asked(into, quiet) as reporter:
        recipes = _recipes(recipe, lambda place: chosen_recipe(place, weights))
        found = study_attacks(
            _load(sets),
            recipes,
            attacks=attack or ATTACKS,
            defences=defence or DEFENCES,
            epsilons=sorted(set(epsilon or EPSILONS)),
            queries=queries,
            effort=Effort(steps=steps, learners=learners, asked=asked, seed=seed),
            workers=workers,
            report=reporter.report,
        )
    _finish(found, into)


@app.command()
def incremental(
    labelled: Annotated[Path, typer.Argument(metavar="SET", help="As for `evaluate`, of classes of four photos each.")],
    into: Into,
    recipe: RecipeName = None,
    weights: Weights = None,
    steps: Annotated[int, typer.Option(min=2, metavar="N", help="In which the classes come.")] = 4,
    photos: Annotated[int, typer.Option(min=4, metavar="N", help="Of a class, at most; half are learned from.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Over a step's photos.")] = 30,
    rate: Annotated[float, typer.Option(min=0, metavar="RATE", help="Of Adam.")] = 1e-4,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Add classes in steps and measure old and new ones after each: fine-tuned, distilled, replayed, compatible."""
    from resight.evaluation import load_labelled
    from resight.robustness.study_incremental import Course, study_incremental

    with _asked(into, quiet) as reporter:
        found = study_incremental(
            load_labelled(labelled),
            chosen_recipe(recipe, weights),
            steps=steps,
            photos=photos,
            course=Course(epochs=epochs, rate=rate, seed=seed),
            report=reporter.report,
        )
    _finish(found, into)


@app.command()
def joint(
    sets: Annotated[
        list[str],
        typer.Argument(metavar="NAME=SET…", help="Two or more, as for `train`; a column each."),
    ],
    into: Into,
    recipe: RecipeName = None,
    weights: Weights = None,
    settings: Annotated[
        str | None,
        typer.Option("--settings", metavar="NAME|TOML", help="Of `resight train`: ready ones, or a file."),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting of `train`. Repeatable.")
    ] = None,
    hold_out: Annotated[
        float, typer.Option("--hold-out", metavar="SHARE", help="Of each set's objects, to measure on.")
    ] = 0.5,
    together: Annotated[
        bool, typer.Option("--together", help="Search one collection of all sets' photos, and not each set's own.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the trainings that are in FOLDER.")] = False,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Train on each set alone and on all at once, and measure each network on each set: what specialising loses.

    Also by whitenings of each set, chosen in searching; writes report.html too.
    """
    from resight.cli.train import one_or_named
    from resight.evaluation import load_labelled
    from resight.learning.settings import load_settings
    from resight.robustness.study_joint import study_joint

    named = one_or_named(sets, "SET")
    if not isinstance(named, dict):
        raise ResightError("SET: give two or more, each with a name: NAME=SET NAME=SET")
    with Reporter(quiet) if resume else _asked(into, quiet) as reporter:
        found = study_joint(
            {name: load_labelled(place) for name, place in named.items()},
            chosen_recipe(recipe, weights),
            load_settings(settings, changes or ()),
            into,
            share=hold_out,
            together=together,
            resume=resume,
            workers=workers,
            report=reporter.report,
        )
    _finish(found, into)


@app.command()
def progress(
    into: Into,
    reports: Annotated[
        list[Path] | None, typer.Argument(metavar="REPORT.json…", help="Of `evaluate --json` or `score --json`.")
    ] = None,
    published: Annotated[
        list[str] | None,
        typer.Option(
            "--published", metavar="FILE.csv|survey", help="Figures of papers: set,system,year,map,source. Repeatable."
        ),
    ] = None,
    year: Annotated[
        list[str] | None,
        typer.Option("--year", metavar="RECIPE=YEAR", help="Of a recipe that does not come with resight."),
    ] = None,
) -> None:
    """Draw how the best mAP went up over the years: of reports, and of published figures on the same sets."""
    from resight.evaluation.kept_report import read_report
    from resight.evaluation.study_progress import read_published, study_progress

    years = {}
    for text in year or []:
        name, equals, value = text.partition("=")
        if not equals or not value.isdecimal():
            raise ResightError(f"--year {text}: should be RECIPE=YEAR")
        years[name] = int(value)
    with _asked(into, True):
        figures = [milestone for file in published or [] for milestone in read_published(file)]
        found = study_progress([read_report(path) for path in reports or []], figures, years)
    found.write(into)
    output.line(found.table())


def network_recipes(networks: list[str], max_side: int) -> "list[Recipe]":
    """A recipe for each ``NAME[@LAYER][=WEIGHTS]``, called as the network; as layer and weights too where two are one.

    Raises RecipeError where a network has no map, or there are no such weights.
    """
    from resight.networks.sketch import Sketch
    from resight.recipes import Recipe

    parts = [re.fullmatch(r"([^@=]+)(?:@([^=]+))?(?:=(.+))?", text) for text in networks]
    made = []
    for text, match in zip(networks, parts, strict=True):
        if match is None:
            raise RecipeError(f"--network {text}: should be NAME[@LAYER][=WEIGHTS]")
        name, layer, weights = match.groups()
        if weights is not None and not Path(weights).is_file():
            raise RecipeError(f"--network {text}: there is no weights file {weights}")
        if layer is None:
            maps = [each.name for each in Sketch(name).layers() if each.kind == "map"]
            if not maps:
                raise RecipeError(f"--network {text}: none of its layers is a map: name another network")
            layer = maps[-1]
        shared = sum(other is not None and other[1] == name for other in parts) > 1
        label = "-".join(filter(None, [name, match[2], weights and Path(weights).stem])) if shared else name
        stage = {"network": name, "layer": layer, "max_side": max_side, "whiten": "none"}
        stage["weights"] = str(Path(weights).absolute()) if weights else ""
        made.append(
            Recipe.model_validate(
                {
                    "name": re.sub(r"[^a-z0-9._-]", "-", label.lower()),
                    "title": text,
                    "source": "",
                    "filter": "global",
                    "image": {"max_side": max_side},
                    "global": stage,
                }
            )
        )
    return made


def _named(text: str) -> tuple[str, str]:
    """What a recipe is called and where it is: ``NAME=RECIPE``, or the recipe's own name or folder."""
    name, equals, place = text.partition("=")
    return (name, place) if equals else (Path(text).name, text)


def _recipes(texts: list[str], load: "Callable[[str], Recipe]") -> "dict[str, Recipe]":
    """The recipes that options name, loaded, by what they are called; RecipeError where two are called alike."""
    named = [_named(text) for text in texts]
    recipes = {name: load(place) for name, place in named}
    if len(recipes) < len(named):
        raise RecipeError("two of the recipes have one name: tell them apart by --recipe NAME=RECIPE")
    return recipes


def _asked(into: Path, quiet: bool) -> Reporter:
    # Before the hours of work, not after them.
    check_empty(into)
    return Reporter(quiet)


def _load(sets: list[Path]) -> "list[LabelledSet]":
    from resight.evaluation import load_labelled

    return [load_labelled(path) for path in sets]


def _finish(study: "Study | AttackStudy | IncrementalStudy | Invariance | JointStudy", into: Path) -> None:
    study.write(into)
    for warning in study.warnings:
        output.note(warning)
    output.line(study.table())
