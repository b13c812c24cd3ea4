"""Training the compact network on pictures that are rendered, from checks to report."""

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from resight.evaluation.labelled import LabelledSet
from resight.evaluation.measure import versions
from resight.evaluation.protocol import evaluate
from resight.evaluation.report import Report
from resight.learning.facts import figure_facts, index_progress, replace_text, set_facts, with_figures
from resight.learning.procedural.distil import Teacher
from resight.learning.procedural.prepare import ProceduralJob, prepare_procedural
from resight.learning.procedural.task import TAUGHT, ProceduralTask
from resight.learning.procedural.training import ProceduralTraining
from resight.learning.procedural.write import procedural_card, write_compact
from resight.learning.report import write_report
from resight.learning.run import FACTS, RUNS, is_done, outcome_of, publish, run_phase
from resight.learning.trainer import Outcome, Progress
from resight.learning.validate import Validation
from resight.networks.compact import Compact, load_compact
from resight.networks.weights import file_sha256
from resight.recipes.recipe import load_recipe

_RECIPE, _PHASE, _SECONDS = "compact", "procedural", "seconds.txt"


def train_procedural(
    *,
    settings: ProceduralTraining,
    into: Path,
    teacher: Path | None = None,
    validate: LabelledSet | str | Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Path:
    """Train the compact network on rendered pictures and write the folder ``into``, a recipe to index and search with.

    teacher: weights of a network, named by ``settings.teaching``, whose vectors of the same pictures the global vector
        is to agree with. validate: a labelled set; it decides which weights are kept, and is what the report's figures
        are of. Without one, rendered subjects that are not learned from decide.
    The rest, and the folder, is as ``resight.learning.run.train`` has it. Raises as that does.
    """
    into = into.absolute()
    if is_done(into, resume):
        return into
    job = prepare_procedural(settings, into / RUNS, teacher, validate, resume)
    outcome = outcome_of(job, _PHASE, progress, _phase)
    run = job.folder / _PHASE
    publish(run / "recipe", into)
    after = None
    if job.validation is not None:
        said = lambda done: index_progress(progress, "after", done)  # noqa: E731
        after = evaluate(job.validation, load_recipe(into), workers=workers, progress=said)
    if after is not None:
        trained = with_figures(into, None, after)
        replace_text(into / "README.md", procedural_card(load_recipe(into), trained))
    facts = _facts(job, outcome, run, after)
    write_report(into / "report.html", facts, {_PHASE: run}, after)
    replace_text(into / FACTS, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return into


def make(job: ProceduralJob, device: torch.device) -> ProceduralTask:
    """The network and what it learns by. Raises as ``load_compact`` and ``Teacher``."""
    settings = job.settings
    if settings.initial:
        network = load_compact(settings.initial)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = Compact()
    network.requires_grad_(True)
    teacher = None
    if job.teacher is not None:
        teacher = Teacher(
            job.teacher,
            settings.teaching,
            seed=settings.seed + TAUGHT,
            rendering=settings.rendering,
            side=settings.side,
            device=device,
        )
    validation = None
    if job.validation is not None:
        multiple = Compact.multiple
        side = max(multiple, settings.validation_side // multiple * multiple)
        validation = Validation(
            job.validation, side=side, multiple=multiple, least=multiple, chunk=16, readers=settings.readers
        )
    return ProceduralTask(network, settings, teacher, validation)


def _phase(fabric: Fabric, job: ProceduralJob, folder: Path, progress: Progress) -> Outcome:
    """In each process that trains: the run, and what it learned as a recipe."""
    begun = time.monotonic()
    task = make(job, fabric.device)
    try:
        return run_phase(
            fabric,
            job,
            folder,
            progress,
            task,
            lambda into: write_compact(task.network, load_recipe(_RECIPE), into, _trained(job)),
        )
    finally:
        task.close()
        if folder.is_dir() and fabric.is_global_zero:
            with (folder / _SECONDS).open("a", encoding="utf-8") as file:
                file.write(f"{time.monotonic() - begun:.0f}\n")


def _trained(job: ProceduralJob) -> dict[str, Any]:
    """Facts for the recipe that a training leaves."""
    settings = job.settings
    facts: dict[str, Any] = {
        "on": _name(settings),
        "seed": settings.seed,
        "command": job.command,
        "settings": settings.model_dump(mode="json"),
    }
    if job.teacher is not None:
        facts["teacher"] = f"{settings.teaching.network}, {job.teacher.name}, sha256 {file_sha256(job.teacher)}"
    return facts


def _facts(job: ProceduralJob, outcome: Mapping[str, Any], run: Path, after: Report | None) -> dict[str, Any]:
    """Of ``training.json``. seconds: of all the times it ran, but those that were killed."""
    settings = job.settings
    subjects = -(-outcome["steps"] // settings.echoes) * settings.subjects
    spent = [int(line) for line in (run / _SECONDS).read_text(encoding="utf-8").split()]
    return {
        "format": "resight-training",
        "recipe": _RECIPE,
        "scheme": _PHASE,
        "set": {
            "name": _name(settings),
            "revision": versions()["resight"],
            "selection": "",
            "photos": 2 * subjects,
            "classes": subjects,
        },
        "validation": set_facts(job.validation),
        "before": None if after is None else {"none": "it began with what it had not learned here"},
        "after": figure_facts(after),
        "phases": {_PHASE: dict(outcome)},
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
        "command": job.command,
        "seed": settings.seed,
        "teacher": None if job.teacher is None else f"{settings.teaching.network} {file_sha256(job.teacher)}",
        "seconds": sum(spent),
        "machine": {
            "platform": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count() or 1,
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _name(settings: ProceduralTraining) -> str:
    return f"rendered pictures of seed {settings.seed}"
