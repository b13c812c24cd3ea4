"""mAP on objects never learned from, before and after training by several losses: sets split by object, several seeds.

Half of each set's objects are learned from, half are asked for. No figure of the latter chooses anything: the last
epoch's weights are measured, once.
"""

import argparse
import csv
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from common import DATA, SETS, header, percent, table, write_json
from resight.evaluation import LabelledSet, load_labelled
from resight.learning.datasets.photos import TrainingSet, split_by_object, training_set
from resight.learning.embedding_task import EmbeddingTask
from resight.learning.launch import launch
from resight.learning.model import Model
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
    """One training. method: what is compared, such as a loss. settings: as ``resight train --set`` takes them."""

    labelled: Path
    method: str
    seed: int
    recipe: str
    settings: tuple[str, ...]

    @property
    def changes(self) -> tuple[str, ...]:
        """All settings but the method's own."""
        return (f"seed={self.seed}", *self.settings)


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


def halves(labelled: Path) -> tuple[TrainingSet, LabelledSet]:
    """Half of the objects to learn from, and the other half; drawn with seed 0, whatever a training's own is."""
    learned, held_out = split_by_object(load_labelled(labelled), 0.5, 0)
    return training_set(learned, singletons="drop"), held_out


_SEEN: dict[tuple[str, bytes], Tensor] = {}


def remember(model: Model) -> None:
    """Let the model's frozen beginning look at each picture once in this process, whatever trains after it.

    It gives nothing that depends on the other pictures of a batch, but for rounding. Only what was frozen the last time
    is remembered.
    """
    if not model.splits:
        return
    frozen = [name for name, x in model.named_parameters() if not x.requires_grad]
    key, prefix = f"{model.network} {model.base_sha256} {frozen}", model.prefix
    if _SEEN and next(iter(_SEEN))[0] != key:
        _SEEN.clear()

    def remembered(images: Tensor) -> Tensor:
        names = [(key, blake2b(f"{image.shape}".encode() + image.numpy().tobytes()).digest()) for image in images]
        new = [place for place, name in enumerate(names) if name not in _SEEN]
        if new:
            _SEEN.update((names[place], row.cpu().clone()) for place, row in zip(new, prefix(images[new]), strict=True))
        return torch.stack([_SEEN[name] for name in names]).to(model.trunk.mean.device)

    model.prefix = remembered  # type: ignore[method-assign]


def figures(task: EmbeddingTask, settings: Training) -> tuple[float, float, float]:
    """Run a task: mAP of what is validated on before and after its epochs, and the seconds that took.

    Of a frozen network the seconds are of what no task of this process had seen before.
    """
    settings = settings.model_copy(update={"validate_every": settings.epochs})
    remember(task.model)
    with tempfile.TemporaryDirectory(prefix="resight-learning-") as folder:
        task.keep_in(Path(folder))
        started = perf_counter()
        launch(settings, lambda fabric: run(task, settings, Path(folder), fabric, identity={}))
        seconds = perf_counter() - started
        with (Path(folder) / "log.csv").open(encoding="utf-8") as log:
            values = [float(row["mAP"]) for row in csv.DictReader(log) if row["part"] == "validation"]
    return values[0], values[-1], seconds


def trained(asked: Asked) -> Trained:
    """A training by a loss of labels."""
    settings = load_settings(None, (f"loss.kind={asked.method}", *OWN.get(asked.method, ()), *asked.changes))
    photos, held_out = halves(asked.labelled)
    task = make(load_recipe(asked.recipe), Lesson(photos, held_out, settings))
    return Trained(asked, *figures(task, settings), len(photos.photos), len(photos.classes), len(held_out.queries))


def _before(results: Sequence[Trained], labelled: Path) -> float | None:
    own = [result.before for result in results if result.asked.labelled == labelled]
    return float(np.mean(own)) if own else None  # a new layer is drawn by the seed


def rows_of(results: Sequence[Trained], sets: Sequence[Path], methods: Sequence[str]) -> list[list[object]]:
    """A row a method, a column a set: the mean over seeds ± their standard deviation, in per cent."""
    found: list[list[object]] = [["before", *(percent(_before(results, labelled)) for labelled in sets)]]
    for method in methods:
        row: list[object] = [method]
        for labelled in sets:
            own = [100 * r.after for r in results if (r.asked.labelled, r.asked.method) == (labelled, method)]
            deviation = f" ± {np.std(own, ddof=1):.1f}" if len(own) > 1 else ""
            row.append(f"{np.mean(own):.1f}{deviation}" if own else None)
        found.append(row)
    return found


def study(
    description: str | None,
    option: str,
    methods: Sequence[str],
    train: Callable[[Asked], Trained | None],
    facts: str,
) -> None:
    """The command line: train by each method on each set with each seed, and print what that gives.

    option: names one method. train: importable; None for a method that is not for a set, which it says itself.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--set", dest="sets", type=Path, action="append", help="folder of a labelled set; repeatable")
    parser.add_argument("--recipe", required=True, help="whose [global] is trained, with its weights")
    parser.add_argument(option, dest="methods", action="append", help=f"repeatable (default: {', '.join(methods)})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--setting", dest="settings", action="append", default=[], help="KEY=VALUE for all; repeatable")
    parser.add_argument("--processes", type=int, default=1, help="trainings at once")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    given = parser.parse_args()
    sets = given.sets or [DATA / name for name in SETS]
    chosen = given.methods or list(methods)
    asked = [
        Asked(labelled, method, seed, given.recipe, tuple(given.settings))
        for labelled in sets
        for method in chosen
        for seed in given.seeds
    ]
    results: list[Trained] = []
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        for result in pool.map(train, asked):
            if result is None:
                continue
            results.append(result)
            a = result.asked
            print(
                f"{a.labelled.name} {a.method} seed {a.seed}: {100 * result.before:.1f} → {100 * result.after:.1f}, "
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
        f"{facts}: {sizes}"
    )
    print(header(protocol))
    print(table(["mAP, %", *(labelled.name for labelled in sets)], rows_of(results, sets, chosen)))
    if results:
        seconds = [result.seconds for result in results]
        print(f"\nA training took {np.median(seconds):.0f} s, median, with its two measurements.")
    write_json(
        given.out,
        protocol,
        [{**asdict(r), "asked": {**asdict(r.asked), "labelled": r.asked.labelled.name}} for r in results],
    )


if __name__ == "__main__":
    study(__doc__, "--loss", LOSSES, trained, "Learned from")
