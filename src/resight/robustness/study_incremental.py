"""Classes that come in steps (survey §7): what a network forgets as it learns, and what its old index is still worth.

The network is frozen and a square linear layer over its vectors, at first the identity, learns: so that what is
compared is the means against forgetting, in minutes on any machine. Its terms are those of `resight train --old`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import normalize

from resight.describe.describer import Describer
from resight.errors import GroundTruthError, RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.measure import versions
from resight.evaluation.metrics import average_precision
from resight.learning.datasets.photos import Photo, training_set
from resight.learning.losses.classification import CrossEntropyLoss
from resight.learning.mining.batches import balanced_batches, replayed_batches
from resight.learning.mining.stages import Sampling
from resight.learning.old import OldTerms, old_vectors
from resight.recipes.recipe import Recipe
from resight.robustness.incremental import By, IncrementalStudy, StepResult

TEMPERATURE = 0.05
FROZEN = "none after step 0"
_COMPARED: tuple[tuple[By, By], ...] = (("new", "new"), ("new", "old"), ("old", "old"))
_CLASSIFIER = 100.0  # times the rate: it is new, and the layer is not

Report = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Arm:
    """How a step is learned.

    compatible, distil: weights of the terms of the network before it (``OldStage``). replay: the share of old classes
    in batches. anew: not begun as that network but as a rotation drawn by the seed, as is a network that was trained
    apart, whose vectors say nothing to the other's.
    """

    compatible: float = 0.0
    distil: float = 0.0
    replay: float = 0.0
    anew: bool = False


ARMS: Mapping[str, Arm] = {
    "fine-tuning": Arm(),
    "distillation": Arm(distil=1.0),
    "replay": Arm(replay=0.5),
    "backward-compatible": Arm(compatible=1.0),
    "all three": Arm(1.0, 1.0, 0.5),
    "anew": Arm(replay=0.5, anew=True),
    "anew, backward-compatible": Arm(compatible=1.0, replay=0.5, anew=True),
}


@dataclass(frozen=True)
class Course:
    """epochs: passes over a step's photos. rate: of Adam. each: photos of a class in a batch. seed: of all drawn."""

    epochs: int = 30
    rate: float = 1e-4
    each: int = 4
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Examples:
    """N×D vectors of unit length, their class and the step that it comes in, (N,) each."""

    x: NDArray[np.float32]
    labels: NDArray[np.int64]
    steps: NDArray[np.int64]

    def take(self, chosen: NDArray[np.bool_]) -> "Examples":
        """Those chosen."""
        return Examples(self.x[chosen], self.labels[chosen], self.steps[chosen])


def study_incremental(
    labelled: LabelledSet,
    recipe: Recipe,
    *,
    steps: int = 4,
    photos: int = 20,
    arms: Mapping[str, Arm] = ARMS,
    course: Course | None = None,
    report: Report = lambda phase, done, total: None,
) -> IncrementalStudy:
    """mAP of old and new classes of a labelled set as these come in steps, by each way to learn on.

    photos: of a class, at most, drawn; half of them are learned from and the others, in turn, ask for one another among
    those of all classes so far. Step 0 is learned alike, whatever follows.
    Raises RecipeError where the recipe gives not one vector an image, GroundTruthError where there are too few classes
    of four photos.
    """
    course = course or Course()
    if recipe.global_ is None or recipe.global_.late is not None:
        raise RecipeError(f"recipe {recipe.name}: gives not one vector an image, which is what learns here")
    shown = _drawn(labelled, steps, photos, course.seed)
    report("describing", 0, None)
    x = old_vectors(Describer(recipe), [photo for photo, _, _ in shown])
    labels = np.array([photo.label for photo, _, _ in shown])
    learned = np.array([learns for _, learns, _ in shown])
    examples = Examples(x, labels, np.array([step for _, _, step in shown]))
    results = run_steps(examples.take(learned), examples.take(~learned), arms, course, report)
    protocol = {
        "set": f"{labelled.name} {labelled.revision[:12]}, {len(np.unique(labels))} classes in {steps} steps, "
        f"{len(x)} photos, {int(learned.sum())} of them learned from",
        "recipe": f"{recipe.name}, {recipe.fingerprint[:12]}; frozen, under a linear layer",
        "learning": f"Adam, rate {course.rate:g}, {course.epochs} epochs a step, seed {course.seed}; cross-entropy of "
        f"cosines over {TEMPERATURE:g}",
        "figures": "mAP, trapezoidal; each photo held out asks for the others of its class",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "arms": {name: vars(arm) for name, arm in arms.items()},
        "warnings": (),
    }
    named = tuple(StepResult(labelled.name, *rest) for rest in results)
    return IncrementalStudy(protocol, named)


def run_steps(
    learned: Examples,
    held_out: Examples,
    arms: Mapping[str, Arm],
    course: Course,
    report: Report = lambda phase, done, total: None,
) -> list[tuple[str, By, By, int, int, float | None, float, float]]:
    """Fields of ``StepResult`` after the set. Steps are those of the examples, from 0, where there is no old network.

    Shen et al. call a network compatible where new queries find more in the old database than old ones do.
    """
    last = int(learned.steps.max())
    first = _learn(learned, 0, None, Arm(), course)
    found = []
    for done, (name, arm) in enumerate([(FROZEN, None), *arms.items()]):
        report("learning in steps", done, len(arms) + 1)
        layers = [first]
        for step in range(1, last + 1):
            layers.append(layers[-1] if arm is None else _learn(learned, step, layers[-1], arm, course))
        for queries, database in _COMPARED if arm is not None else _COMPARED[:1]:
            for step in range(last + 1):
                by = (layers[step if one == "new" else max(step - 1, 0)] for one in (queries, database))
                found.append((name, queries, database, step, *_measured(held_out, step, *by)))
    return found


def _drawn(labelled: LabelledSet, steps: int, most: int, seed: int) -> list[tuple[Photo, bool, int]]:
    """Photos, whether they are learned from, and the step of their class; labels ascend with the steps."""
    shown = training_set(labelled, singletons="drop")
    rng = np.random.default_rng(seed)
    counts = np.bincount(shown.labels)
    classes = rng.permutation(np.flatnonzero(counts >= 4))
    if len(classes) < 2 * steps or steps < 2:
        raise GroundTruthError(
            f"{labelled.file}: has {len(classes)} classes of four photos or more, and {steps} steps need two each, and "
            "there are two steps or more: ask for fewer steps, or give photos of more objects"
        )
    found = []
    for step, part in enumerate(np.array_split(np.arange(len(classes)), steps)):
        for label in part.tolist():
            places = rng.permutation(np.flatnonzero(shown.labels == classes[label]))[:most]
            for number, place in enumerate(places.tolist()):
                photo = shown.photos[place]
                found.append((Photo(photo.path, label, photo.box), number < len(places) // 2, step))
    return found


class _Linear(nn.Module):
    """x ↦ Wx, normalised; W is D×D and begins as the identity."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(dimension))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalize(x @ self.weight.T)

    def vectors(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Without a graph."""
        with torch.no_grad():
            found: NDArray[np.float32] = self(torch.from_numpy(x)).numpy()
        return found


def _learn(learned: Examples, step: int, before: _Linear | None, arm: Arm, course: Course) -> _Linear:
    """The layer after a step: begun as before it, and taught the step's classes, with old ones where they are replayed.

    Classes are numbered so that those of this step are the first.
    """
    chosen = learned.take(learned.steps <= step if arm.replay else learned.steps == step)
    order = np.argsort(chosen.steps != step, kind="stable")
    names, first = np.unique(chosen.labels[order], return_index=True)
    number = {name: place for place, name in enumerate(names[np.argsort(first)].tolist())}
    labels = np.array([number[label] for label in chosen.labels[order].tolist()])
    x, replayed = chosen.x[order], len(names) - len(np.unique(chosen.labels[chosen.steps == step]))
    layer = _Linear(x.shape[1])
    terms = None
    if before is not None:
        layer.load_state_dict(_turned(x.shape[1], course.seed + step) if arm.anew else before.state_dict())
        how = {"compatible": arm.compatible, "distil": arm.distil, "temperature": TEMPERATURE}
        terms = OldTerms(before.vectors(x), labels, **how)
    loss = CrossEntropyLoss(x.shape[1], len(names), course.seed, normalised=True, temperature=TEMPERATURE, bias=False)
    groups: list[dict[str, Any]] = [
        {"params": list(layer.parameters())},
        {"params": list(loss.parameters()), "lr": _CLASSIFIER * course.rate},
    ]
    optimiser = torch.optim.Adam(groups, lr=course.rate)
    for epoch in range(course.epochs):
        for places in _batches(labels, replayed, arm, course, epoch):
            described, own = layer(torch.from_numpy(x[places])), torch.from_numpy(labels[places])
            value = loss(described, own)
            if terms is not None:
                value = value + terms(described, own, places)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    return layer


def _turned(dimension: int, seed: int) -> dict[str, torch.Tensor]:
    """The state of a layer that is a rotation."""
    drawn = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(seed))
    return {"weight": torch.linalg.qr(drawn)[0]}


def _batches(
    labels: NDArray[np.int64], replayed: int, arm: Arm, course: Course, epoch: int
) -> Sequence[NDArray[np.int64]]:
    new = len(np.unique(labels)) - replayed
    if not replayed:
        return balanced_batches(labels, classes=new, each=course.each, epoch=epoch, seed=course.seed)
    classes = max(round(new / (1 - arm.replay)), new + 1)
    classes = min(classes, new + replayed)
    sampling = Sampling(classes=classes, each=course.each)
    share = (classes - new) / classes
    return replayed_batches(sampling, labels, replayed=replayed, share=share, epoch=epoch, seed=course.seed)


def _measured(
    held_out: Examples, step: int, queries: _Linear, database: _Linear
) -> tuple[int, float | None, float, float]:
    """Classes so far, and mAP of old and new ones and of all."""
    seen = held_out.take(held_out.steps <= step)
    scores = np.empty(len(seen.x))
    for place, similarity in enumerate(queries.vectors(seen.x) @ database.vectors(seen.x).T):
        order = np.argsort(-similarity, kind="stable")
        right = seen.labels[order[order != place]] == seen.labels[place]
        scores[place] = average_precision(np.flatnonzero(right), int(right.sum()))
    old = seen.steps < step
    of_old = float(scores[old].mean()) if old.any() else None
    return len(np.unique(seen.labels)), of_old, float(scores[~old].mean()), float(scores.mean())
