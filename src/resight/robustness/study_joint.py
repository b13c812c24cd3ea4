"""Specialised and generic in one (survey §7): what a network of one set loses on another, and how a merged one does."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from resight.errors import GroundTruthError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.measure import versions
from resight.evaluation.protocol import evaluate
from resight.learning.adapters import check_sets
from resight.learning.datasets.photos import split_by_object
from resight.learning.datasets.several import check_names, renamed
from resight.learning.model import make_model
from resight.learning.prepare import prepare
from resight.learning.run import train
from resight.learning.schemes.embedding import adapting, whiten_written
from resight.learning.settings import Training
from resight.learning.task import Lesson
from resight.learning.write import write_recipe
from resight.recipes.recipe import Recipe, load_recipe
from resight.robustness.joint import JointResult, JointStudy, with_losses
from resight.search.collection import Progress

UNTRAINED, ALL = "untrained", "all sets"
RUNS = "runs"
"""In the study's folder: the trainings, a folder each."""

Report = Callable[[str, int, int | None], None]


def study_joint(
    sets: Mapping[str, LabelledSet],
    recipe: Recipe,
    settings: Training,
    into: Path,
    *,
    share: float = 0.5,
    together: bool = False,
    resume: bool = False,
    workers: int | None = None,
    report: Report = lambda phase, done, total: None,
) -> JointStudy:
    """mAP on what is held out of each set, of networks that learned nothing, each set alone, and all of them at once.

    A share of each set's objects is held out, drawn with the settings' seed; all networks learn from the others by the
    same settings, for as many epochs, and the last weights are taken, so that nothing was chosen by what is measured.
    Each has adapters of the sets that it learned from, the untrained one of all, and searches by its set's, or by that
    of all; those of all sets also by each set's own, as if whoever asks had named it.
    together: ask for each set's objects in one collection of all sets' photos, and not in the set's own.
    into: the runs are kept in its ``runs``. resume: go on with those that are there.
    Raises GroundTruthError for fewer than two sets, and as ``train``.
    """
    check_names(sets)
    if len(sets) < 2:
        raise GroundTruthError("what is lost between sets is seen in two or more: name another, as NAME=SET")
    halves = {name: split_by_object(labelled, share, settings.seed) for name, labelled in sets.items()}
    learned = {name: own for name, (own, _) in halves.items()}
    tests = renamed({name: test for name, (_, test) in halves.items()})
    searched = {name: _with_others(name, tests) for name in tests} if together else tests
    networks = {UNTRAINED: tuple(sets), **{name: (name,) for name in sets}, ALL: tuple(sets)}
    for names in networks.values():  # says what does not do before hours of work
        lesson = prepare(recipe, {name: learned[name] for name in names}, settings, into).lesson
        if recipe.global_ is not None:
            check_sets(recipe.global_, lesson.sets, adapting(recipe, settings), settings.dimensions)
    results: list[JointResult] = []
    recipes: dict[str, Recipe] = {}
    for network, names in networks.items():
        folder = into / RUNS / network.replace(" ", "-")
        given = {name: learned[name] for name in names}
        if network == UNTRAINED:
            _write_untrained(recipe, prepare(recipe, given, settings, into).lesson, folder)
        else:
            train(recipe, given, settings=settings, into=folder, resume=resume, workers=workers, progress=report)
        recipes[network] = load_recipe(folder)
        results += _measured(network, names, recipes[network], searched, workers, report)
    facts = {
        f"set {name}": f"{own.name} {own.revision[:12]}; learned from: {own.selection}; measured on: "
        f"{tests[name].selection}, {len(tests[name].queries)} queries of {len(searched[name].database)} photos"
        for name, own in learned.items()
    }
    adapters = recipes[ALL].adapters
    protocol = {
        "recipe": f"{recipe.name}, {recipe.fingerprint[:12]}",
        **facts,
        "learning": f"the same settings for each, {settings.epochs} epochs, seed {settings.seed}; the last weights",
        "adapters": "none" if adapters is None else f"{', '.join(adapters.files)}; of the photos learned from",
        "figures": "mAP; "
        + ("each set's queries in one collection of all sets' photos" if together else "each set's own database"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "settings": settings.model_dump(mode="json"),
        "warnings": ()
        if adapters is not None
        else ("no adapters were learned, so that nothing is chosen in searching: see settings.whitening",),
    }
    return JointStudy(protocol, with_losses(results))


def _measured(
    network: str,
    names: tuple[str, ...],
    recipe: Recipe,
    sets: Mapping[str, LabelledSet],
    workers: int | None,
    report: Report,
) -> list[JointResult]:
    """By the recipe's default, and by the set's own adapter where the network has those of several."""
    found = []
    default = "none" if recipe.adapters is None else recipe.adapters.default
    for name, labelled in sets.items():
        adapters = [default, name] if recipe.adapters is not None and len(names) > 1 else [default]
        with tempfile.TemporaryDirectory(prefix="resight-joint-") as kept:  # described once for all adapters

            def told(at: Progress, name: str = name) -> None:
                report(f"{network} on {name}: {at.phase}", at.done, at.total)

            for adapter in adapters:
                figures = evaluate(
                    labelled, recipe, collection=Path(kept) / "c", adapter=adapter, workers=workers, progress=told
                ).figures
                value = figures.mean_average_precision
                if value is None:
                    raise GroundTruthError(f"{labelled.file}: nothing that is held out has an answer: hold out more")
                chosen = len(adapters) > 1 and adapter == name
                found.append(JointResult(network, adapter, chosen, name, value, None))
    return sorted(found, key=lambda r: r.chosen)


def _with_others(name: str, tests: Mapping[str, LabelledSet]) -> LabelledSet:
    """A set whose database also has the photos of the others', in one order whichever set it is."""
    own = tests[name]
    here = {own.locate(path) for path in own.database}
    asked = {own.locate(query.path) for query in own.queries}
    others = dict.fromkeys(other.locate(path) for other in tests.values() for path in other.database)
    added = tuple(str(path) for path in others if path not in here and path not in asked)
    return replace(own, database=(*own.database, *added), distractors=own.distractors + len(added))


def _write_untrained(recipe: Recipe, lesson: Lesson, folder: Path) -> None:
    """The network as it is, with adapters as the trained ones have them; nothing where that is there already."""
    if folder.is_dir():
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    settings, stage = lesson.settings, recipe.global_
    if stage is None:
        raise ValueError("the recipe has no [global]")
    model = make_model(stage, weights=None, learns=settings.learns, recipe_name=recipe.name, seed=settings.seed)
    write_recipe(model, recipe, part, trained={})
    whiten_written(part, recipe, lesson)
    part.rename(folder)
