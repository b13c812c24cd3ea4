"""What is known of a training when it is done: figures before and after, on what was held out."""

import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.measure import versions
from resight.evaluation.protocol import evaluate
from resight.evaluation.report import Report
from resight.files import replacing
from resight.learning.card import base_of, card, network_weights
from resight.learning.prepare import Job
from resight.learning.trainer import Progress
from resight.recipes.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from resight.learning.datasets.photos import TrainingSet
    from resight.search.collection import Progress as IndexProgress


def figures_of(
    job: Job, into: Path, workers: int | None, progress: Progress
) -> tuple[Report | str | None, Report | str | None]:
    """Reports of the recipe as it was and as it is now on what is held out, by the ordinary describer and index; or why
    there is none."""
    if job.lesson.validation is None:
        return None, None
    held_out = job.lesson.validation
    before = _before(held_out, job.recipe, workers, partial(index_progress, progress, "before"))
    told = partial(index_progress, progress, "after")
    return before, evaluate(held_out, load_recipe(into), workers=workers, progress=told)


def figures_of_sets(job: Job, into: Path, workers: int | None, progress: Progress) -> dict[str, Any]:
    """For the facts under ``sets``, of each of several sets what it is and its figures on what is held out of it.

    before: of the recipe as it was. after: as it searches by default. own: by the adapter that is called as the set. A
    set that is only validated on has no facts of what was learned. Empty where one set is learned from.
    """
    lesson, trained = job.lesson, load_recipe(into)
    names = () if trained.adapters is None else trained.adapters.names
    found: dict[str, Any] = {}
    for name in dict.fromkeys([*lesson.sets, *lesson.validations]):
        learned, held_out = lesson.sets.get(name), lesson.validations.get(name)
        figures: dict[str, Any] = dict.fromkeys(("before", "after", "own"))
        if held_out is not None:
            figures["before"] = _before(
                held_out, job.recipe, workers, partial(index_progress, progress, f"{name} before")
            )
            with tempfile.TemporaryDirectory(prefix="resight-train-") as kept:  # described once for both
                for when, adapter in (("after", None), ("own", name)):
                    if adapter is None or adapter in names:
                        report = partial(index_progress, progress, f"{name} {when}")
                        how: dict[str, Any] = {"collection": Path(kept) / "c", "workers": workers, "progress": report}
                        figures[when] = evaluate(held_out, trained, adapter=adapter, **how)
        found[name] = {
            "learned": None if learned is None else training_facts(learned),
            "validation": set_facts(held_out),
            **{when: figure_facts(report) for when, report in figures.items()},
        }
    return {"sets": found} if found else {}


def _before(held_out: LabelledSet, recipe: Recipe, workers: int | None, progress: Any) -> Report | str:
    try:
        return evaluate(held_out, recipe, workers=workers, progress=progress)
    except RecipeError as error:  # such as a whitening or attention that has not been learned
        return str(error)


def index_progress(progress: Progress, when: str, done: "IndexProgress") -> None:
    progress(f"{when}: {done.phase}", done.done, done.total)


def facts_of(
    job: Job, outcomes: Mapping[str, Any], before: Report | str | None, after: Report | str | None
) -> dict[str, Any]:
    photos, validation = job.lesson.photos, job.lesson.validation
    return {
        "format": "resight-training",
        "recipe": job.recipe.name,
        "scheme": job.scheme,
        "set": training_facts(photos),
        "validation": set_facts(validation),
        "before": figure_facts(before),
        "after": figure_facts(after),
        "phases": dict(outcomes),
        "settings": job.lesson.settings.model_dump(mode="json"),
        "versions": versions(),
    }


def training_facts(photos: "TrainingSet") -> dict[str, Any]:
    """What a set is that was learned from."""
    return {
        "name": photos.name,
        "revision": photos.revision,
        "selection": photos.selection,
        "photos": len(photos.photos),
        "classes": len(photos.classes),
    }


def set_facts(labelled: LabelledSet | None) -> dict[str, Any] | None:
    """What a set is that was validated on."""
    if labelled is None:
        return None
    return {
        "name": labelled.name,
        "revision": labelled.revision,
        "selection": labelled.selection,
        "database": len(labelled.database),
        "queries": len(labelled.queries),
    }


def add_figures(
    into: Path, before: Report | str | None, after: Report | str | None, each: Mapping[str, Any] | None = None
) -> None:
    """Put the figures into a written recipe's facts and card, if it has those, in its folder ``into``.

    each: ``figures_of_sets``.
    """
    recipe = load_recipe(into)
    of_sets = figures_by_set((each or {}).get("sets", {}))
    if recipe.trained is None or not (isinstance(after, Report) or of_sets):
        return
    trained = with_figures(into, before, after) if isinstance(after, Report) else put_figures(into, of_sets)
    if (into / "README.md").is_file():
        weights = network_weights(recipe)
        replace_text(into / "README.md", card(recipe, base_of(weights) if weights else "", trained))


def with_figures(into: Path, before: Report | str | None, after: Report) -> dict[str, Any]:
    """The facts of a training in the recipe of a folder, with figures put into them there."""
    reports = {"before": before, "after": after}
    figures = {
        f"mAP {when}": report.figures.mean_average_precision
        for when, report in reports.items()
        if isinstance(report, Report) and report.figures.mean_average_precision is not None
    }
    return put_figures(into, {**figures, "on": f"{after.protocol.name}: {after.protocol.selection or 'all'}"})


def figures_by_set(sets: Mapping[str, Any]) -> dict[str, Any]:
    """mAP of each set, in words of when and on what, where it is known."""
    found: dict[str, Any] = {}
    for name, facts in sets.items():
        for when, said in (("before", "before"), ("after", "after"), ("own", f"after, as {name}")):
            value = (facts[when] or {}).get("mean_average_precision")
            if value is not None:
                found[f"mAP of {name} {said}"] = value
    return found


def put_figures(into: Path, figures: Mapping[str, Any]) -> dict[str, Any]:
    """As ``with_figures``, of figures by what they are."""
    table = tomllib.loads((into / "recipe.toml").read_text(encoding="utf-8"))
    trained: dict[str, Any] = table["trained"]
    trained["figures"] = dict(figures)
    replace_text(into / "recipe.toml", tomli_w.dumps(table))
    return trained


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises RecipeError where it cannot be written."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written: {error.strerror or error}; make room, then --resume") from error


def figure_facts(report: Report | str | None) -> dict[str, Any] | None:
    """A report's figures; or, under ``none``, why there are none."""
    if report is None:
        return None
    if isinstance(report, str):
        return {"none": report}
    figures = asdict(report.figures)
    return {key: value for key, value in figures.items() if key != "acceptance"}
