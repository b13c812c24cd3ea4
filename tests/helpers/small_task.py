"""A task that trains in a second: points of classes in noise, a small network with dropout, a Siamese loss."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import normalize

from resight.learning.caching import backward
from resight.learning.launch import launch
from resight.learning.optimisation import Optimisation
from resight.learning.task import Batch
from resight.learning.trainer import Outcome, run

CLASSES, EACH, WIDE = 6, 8, 12


def siamese(x: Tensor, labels: Tensor) -> Tensor:
    """½D for a pair of one class, ½·max(0, 0.7 − D) for others; D squared; mean over pairs."""
    d = (x[:, None] - x[None]).square().sum(2)
    same = labels[:, None] == labels[None]
    return torch.where(same, d, (0.7 - d).clamp_min(0)).mean() / 2


class SmallTask:
    """spoil: the step whose loss is not a number. slow: seconds that each step takes besides."""

    def __init__(self, seed: int = 0, spoil: int = -1, slow: float = 0.0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(CLASSES).repeat_interleave(EACH)
        centres = torch.randn(CLASSES, WIDE, generator=draw)
        self.points = centres[self.labels] + 1.5 * torch.randn(CLASSES * EACH, WIDE, generator=draw)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = nn.Sequential(nn.Linear(WIDE, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))
        self.seed, self.spoil, self.slow = seed, spoil, slow

    def groups(self):
        return [{"params": list(self.module[0].parameters())}, {"params": list(self.module[3].parameters()), "lr": 3.0}]

    def batches(self, epoch: int) -> list[Batch]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.points))
        return [Batch(places, np.array([[0, 1, 2]]) if i % 2 else None) for i, places in enumerate(np.split(order, 4))]

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        time.sleep(self.slow)
        device = next(self.module.parameters()).device
        labels = self.labels[batch.places].to(device)
        passed = backward(
            np.split(batch.places, 3),
            lambda places: normalize(self.module(self.points[places].to(device))).float(),
            lambda x: siamese(x, labels) * (torch.nan if step == self.spoil else 1),
            propagate,
            seed=1000 * epoch + step,
            device=device,
        )
        return {"loss": passed.loss}

    def validate(self) -> dict[str, float]:
        self.module[2].eval()
        with torch.no_grad():
            x = normalize(self.module(self.points.to(next(self.module.parameters()).device))).float().cpu()
        self.module[2].train()
        return {"separation": -float(siamese(x, self.labels))}


def settings(**changes: object) -> Optimisation:
    """Four epochs of four steps, with a checkpoint each third step."""
    given = {"epochs": 4, "rate": 0.01, "schedule": "cosine", "warm_up": 3, "checkpoint_every": 3, "accelerator": "cpu"}
    return Optimisation.model_validate(given | changes)


def train(
    folder: Path, *, resume: bool = False, slow: float = 0.0, spoil: int = -1, **changes: object
) -> tuple[dict[str, np.ndarray], Outcome]:
    """The module's state after training, and the run's outcome."""
    return launch(settings(**changes), _trained, settings(**changes), folder, resume, slow, spoil)


def _trained(fabric: Fabric, chosen: Optimisation, folder: Path, resume: bool, slow: float, spoil: int):
    torch.set_num_threads(1)
    task = SmallTask(spoil=spoil, slow=slow)
    outcome = run(task, chosen, folder, fabric, identity=chosen.model_dump(), resume=resume)
    return {name: tensor.cpu().numpy() for name, tensor in task.module.state_dict().items()}, outcome


if __name__ == "__main__":
    train(Path(sys.argv[1]), slow=float(sys.argv[2]), resume=len(sys.argv) > 3)
