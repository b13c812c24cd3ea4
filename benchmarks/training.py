"""Training with labels: its speed beside the network's bare forward and backward pass, and its memory over the batch.

Random weights and pictures drawn from a seed: what is measured does not depend on what they show. Each figure is of a
process of its own, in which `resight.learning.trainer` trains as `resight train` does, from files.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from common import header, table, write_json
from process import watched
from resight.learning.datasets.photos import Photo, TrainingSet
from resight.learning.embedding_task import EmbeddingTask
from resight.learning.launch import launch
from resight.learning.model import make_model
from resight.learning.settings import load_settings
from resight.learning.task import Lesson
from resight.learning.trainer import run
from resight.networks.architectures import create_free_size
from resight.recipes.network_stages import GlobalStage

_EACH = 4  # photos of an object
_WARM = 1  # steps before the clock starts


@dataclass(frozen=True)
class Speed:
    """Pictures a second of the trainer, and of forward and backward alone, on pictures that lie in memory."""

    batch: int
    chunk: int
    trainer: float
    bare: float


@dataclass(frozen=True)
class Memory:
    """Peaks in bytes: resident, of which private; and allocated on the GPU, 0 without one."""

    batch: int
    chunk: int
    resident: int
    private: int
    cuda: int


@dataclass(frozen=True)
class Work:
    """What is trained."""

    network: str
    layer: str
    side: int
    precision: str
    weights: Path
    photos: Path
    count: int


def made(options: argparse.Namespace, count: int) -> Work:
    """Weights and ``count`` photos, noise in patches, in the working folder, unless they are there."""
    work: Path = options.work
    weights, photos = work / f"{options.network}.safetensors", work / f"photos-{options.side}"
    photos.mkdir(parents=True, exist_ok=True)
    if not weights.is_file():
        torch.manual_seed(0)
        network, _ = create_free_size(options.network)
        save_file({name: x.contiguous().clone() for name, x in network.state_dict().items()}, weights)
    for number in range(len(list(photos.iterdir())), count):
        coarse = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        large = cv2.resize(coarse, (options.side * 5 // 4, options.side * 5 // 4), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(photos / f"{number:06d}.jpg"), large)
    return Work(options.network, options.layer, options.side, options.precision, weights, photos, count)


def task_of(work: Work, batch: int, chunk: int, steps: int, budget: int = 1024) -> EmbeddingTask:
    """A GeM descriptor and a Siamese loss of all pairs, with so many balanced batches an epoch."""
    table = {"network": work.network, "weights": str(work.weights), "layer": work.layer, "whiten": "none"}
    settings = load_settings(
        None,
        side=work.side,
        chunk=chunk,
        epochs=1,
        precision=work.precision,
        sampling={"classes": batch // _EACH, "each": _EACH, "batches": steps},
        budget=budget,
    )
    files = sorted(work.photos.iterdir())[: work.count]
    photos = tuple(Photo(file.absolute(), number // _EACH) for number, file in enumerate(files))
    names = tuple(f"{number}" for number in range(len(photos) // _EACH))
    lesson = Lesson(TrainingSet("made", photos, names, work.photos), None, settings)
    model = make_model(
        GlobalStage.model_validate(table), weights=None, learns=settings.learns, recipe_name="made", seed=0
    )
    return EmbeddingTask(model, lesson)


def trained(work: Work, batch: int, chunk: int, steps: int, budget: int = 1024) -> tuple[float, int]:
    """Pictures a second after the first steps, and the GPU's peak in bytes."""
    task = task_of(work, batch, chunk, steps, budget)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        launch(
            task.settings,
            lambda fabric: run(
                task, task.settings, Path(folder), fabric, identity={}, progress=lambda *_: ends.append(now())
            ),
        )
    cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    rate = batch * (len(ends) - _WARM) / (ends[-1] - ends[_WARM - 1]) if len(ends) > _WARM else 0.0
    return rate, cuda


def bare(work: Work, batch: int, chunk: int, steps: int) -> float:
    """Pictures a second of the same network's forward and backward pass, a chunk at a time, each passed once."""
    task = task_of(work, batch, chunk, 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = task.model.to(device).train()
    pictures = torch.randint(0, 256, (chunk, 3, work.side, work.side), dtype=torch.uint8)
    half = work.precision == "bf16-mixed"

    def one() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            x: Tensor = model(pictures)
        x.sum().backward()
        return x

    one()
    began = now()
    count = max(1, steps * batch // chunk)
    for _ in range(count):
        one()
    return count * chunk / (now() - began)


def now() -> float:
    """Seconds, when all that was asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18", help="timm's name (default: resnet18)")
    parser.add_argument("--layer", default="features", help="that is pooled (default: features)")
    parser.add_argument("--side", type=int, default=224, help="of the pictures (default: 224)")
    parser.add_argument("--chunk", type=int, default=16, help="pictures through the network at once (default: 16)")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128, 512, 2048], help="photos a step")
    parser.add_argument("--speed-batch", type=int, default=64, help="photos a step, of the speed (default: 64)")
    parser.add_argument("--steps", type=int, default=4, help="timed, of each (default: 4)")
    parser.add_argument("--precision", default="32-true", help="32-true or bf16-mixed")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps weights and photos")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    work = made(options, max(*options.batch, options.speed_batch))
    speeds = []
    for chunk in (options.speed_batch, options.chunk):  # one graph for all; and two passes
        (rate, _) = watched(trained, work, options.speed_batch, chunk, options.steps + _WARM).value
        alone = watched(bare, work, options.speed_batch, chunk, options.steps).value
        speeds.append(Speed(options.speed_batch, chunk, rate, alone))
    memories = []
    for batch in options.batch:
        seen = watched(trained, work, batch, options.chunk, 1, 0)
        memories.append(Memory(batch, options.chunk, seen.peak, seen.private, seen.value[1]))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    protocol = (
        f"{options.network}, pictures of {options.side} pixels, {options.precision}, on {device}; GeM, Siamese loss of "
        "all pairs, AdamW; from JPEG files; the trainer logs each step; bare: forward "
        "and backward once over pictures in memory; two passes cost a second forward pass; memory: the peak of a "
        "process that makes one step and keeps no photo, Python and PyTorch included"
    )
    print(header(protocol))
    rows = [(s.batch, s.chunk, f"{s.trainer:.1f}", f"{s.bare:.1f}", f"{s.trainer / s.bare:.2f}") for s in speeds]
    print(table(("batch", "chunk", "resight, pictures/s", "bare, pictures/s", "ratio"), rows))
    print()
    sizes = [
        (m.batch, m.chunk, *(f"{size / 2**20:.0f}" for size in (m.resident, m.private)), f"{m.cuda / 2**20:.0f}")
        for m in memories
    ]
    print(table(("batch", "chunk", "resident, MiB", "private, MiB", "GPU, MiB"), sizes))
    results = {"speed": [asdict(s) for s in speeds], "memory": [asdict(m) for m in memories]}
    write_json(options.out, protocol, results)
    return results


if __name__ == "__main__":
    main()
