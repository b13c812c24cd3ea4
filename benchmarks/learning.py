"""mAP on objects never learned from, before and after training by several losses: sets split by object, several seeds.

Half of each set's objects are learned from, half are asked for. No figure of the latter chooses anything: the last
epoch's weights are measured, once.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np

from common import DATA, SETS, header, percent, table, write_json
from resight.evaluation import load_labelled
from resight.learning.datasets.photos import split_by_object, training_set
from resight.learning.launch import launch
from resight.learning.schemes.embedding import make
from resight.learning.settings import Training, load_settings
from resight.learning.task import Lesson
from resight.learning.trainer import run
from resight.recipes import load_recipe

LOSSES = ("cross-entropy", "siamese", "triplet", "smooth-ap", "joint")
# Of each loss, where the same is not right for all: cosines divided by a temperature are what a classifier takes.
OWN = {
    "cross-entropy": ("loss.normalised=true", "loss.temperature=0.05", "loss.bias=false"),
    "joint": ("loss.normalised=true", "loss.temperature=0.05", "loss.bias=false"),
}


@dataclass(frozen=True)
class Asked:
    """One training. settings: as ``resight train --set`` takes them."""

    labelled: Path
    loss: str
    seed: int
    recipe: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """mAP in [0, 1]. seconds: of training alone; photos: learned from."""

    asked: Asked
    before: float
    after: float
    seconds: float
    photos: int
    classes: int
    queries: int


def settings_of(asked: Asked) -> Training:
    """Of a training; epochs are all, and the figure is of the last one."""
    changes = (f"loss.kind={asked.loss}", *OWN.get(asked.loss, ()), f"seed={asked.seed}", *asked.settings)
    settings = load_settings(None, changes)
    return settings.model_copy(update={"validate_every": settings.epochs})


def trained(asked: Asked) -> Trained:
    """Train on half of the objects, drawn with seed 0 whatever the training's own is; measure on the others."""
    settings = settings_of(asked)
    learned, held_out = split_by_object(load_labelled(asked.labelled), 0.5, 0)
    lesson = Lesson(training_set(learned, singletons="drop"), held_out, settings)
    task = make(load_recipe(asked.recipe), lesson)
    with tempfile.TemporaryDirectory(prefix="resight-learning-") as folder:
        task.keep_in(Path(folder))
        started = perf_counter()
        launch(settings, lambda fabric: run(task, settings, Path(folder), fabric, identity={}))
        seconds = perf_counter() - started
        rows = (Path(folder) / "log.csv").read_text(encoding="utf-8").splitlines()
    head = rows[0].split(",")
    values = [float(row.split(",")[head.index("mAP")]) for row in rows[1:] if ",validation," in f",{row},"]
    before, after = values[0], values[-1]
    photos = lesson.photos
    return Trained(asked, before, after, seconds, len(photos.photos), len(photos.classes), len(held_out.queries))


def _before(results: Sequence[Trained], labelled: Path) -> float | None:
    own = [result.before for result in results if result.asked.labelled == labelled]
    return float(np.mean(own)) if own else None  # a new layer is drawn by the seed


def rows_of(results: Sequence[Trained], sets: Sequence[Path], losses: Sequence[str]) -> list[list[object]]:
    """A row a loss, a column a set: the mean over seeds ± their standard deviation, in per cent."""
    found: list[list[object]] = [["before", *(percent(_before(results, labelled)) for labelled in sets)]]
    for loss in losses:
        row: list[object] = [loss]
        for labelled in sets:
            own = [100 * r.after for r in results if (r.asked.labelled, r.asked.loss) == (labelled, loss)]
            row.append(f"{np.mean(own):.1f} ± {np.std(own, ddof=1) if len(own) > 1 else 0:.1f}" if own else None)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", dest="sets", type=Path, action="append", help="folder of a labelled set; repeatable")
    parser.add_argument("--recipe", required=True, help="whose [global] is trained, with its weights")
    parser.add_argument("--loss", dest="losses", action="append", help=f"repeatable (default: {', '.join(LOSSES)})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--setting", dest="settings", action="append", default=[], help="KEY=VALUE for all; repeatable")
    parser.add_argument("--processes", type=int, default=1, help="trainings at once")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    given = parser.parse_args()
    sets = given.sets or [DATA / name for name in SETS]
    losses = given.losses or list(LOSSES)
    asked = [
        Asked(labelled, loss, seed, given.recipe, tuple(given.settings))
        for labelled in sets
        for loss in losses
        for seed in given.seeds
    ]
    results: list[Trained] = []
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        for result in pool.map(trained, asked):
            results.append(result)
            a = result.asked
            print(
                f"{a.labelled.name} {a.loss} seed {a.seed}: {100 * result.before:.1f} → {100 * result.after:.1f}, "
                f"{result.seconds:.0f} s",
                flush=True,
            )
    first = {result.asked.labelled: result for result in results}
    sizes = "; ".join(
        f"{name.name} {one.photos} photos of {one.classes}, {one.queries} queries" for name, one in first.items()
    )
    protocol = (
        "half of the objects, drawn with seed 0, are learned from, the others asked for; cosine, trapezoidal AP, "
        f"pictures at one scale; mean ± standard deviation over seeds {', '.join(map(str, given.seeds))}; settings "
        f"{' '.join(given.settings) or 'default'}; {os.environ.get('OMP_NUM_THREADS', 'all')} threads. "
        f"Learned from: {sizes}"
    )
    print(header(protocol))
    print(table(["mAP, %", *(labelled.name for labelled in sets)], rows_of(results, sets, losses)))
    seconds = [result.seconds for result in results]
    print(f"\nA training took {np.median(seconds):.0f} s, median, with its two measurements.")
    write_json(
        given.out,
        protocol,
        [{**asdict(r), "asked": {**asdict(r.asked), "labelled": r.asked.labelled.name}} for r in results],
    )


if __name__ == "__main__":
    main()
