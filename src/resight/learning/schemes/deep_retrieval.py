"""Deep Retrieval in two steps: R-MAC on a rigid grid, then a network that proposes regions in the grid's place.

Gordo, Almazán, Revaud & Larlus, ECCV 2016 and IJCV 2017 (survey §5.1.2). The first step is that of any descriptor. In
the second the network up to its map stays as it is, and the region proposal network learns from boxes of photos that
match each other (``deep_retrieval_boxes``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from resight.describe.global_descriptor import GlobalDescriber
from resight.errors import RecipeError
from resight.evaluation.labelled import LabelledSet
from resight.evaluation.objects import objects
from resight.learning.datasets.augment import NONE
from resight.learning.datasets.photos import Photo
from resight.learning.datasets.pictures import Pictures
from resight.learning.schemes.deep_retrieval_boxes import MatchedBox, boxes_from_matches
from resight.learning.schemes.reranking_copy import copied, finish
from resight.learning.schemes.reranking_pieces import backward_in_pieces
from resight.learning.task import Batch, Lesson, Phase, Task
from resight.networks.backbone import Backbone, load_backbone
from resight.projection.projection import Projection
from resight.recipes.network_stages import Branch, GlobalStage, Grid
from resight.recipes.network_stages import MapRpn as Scheme
from resight.recipes.recipe import Recipe
from resight.regions.map_rpn import MapRpn

if TYPE_CHECKING:
    from resight.learning.settings import Training

_FILE = "proposals.safetensors"


@dataclass(frozen=True, eq=False)
class Boxed:
    """Pictures of photos, and boxes of those that are verified with another. Nothing is known of the rest."""

    pictures: Pictures
    boxes: Mapping[int, MatchedBox]

    @classmethod
    def of(cls, photos: Sequence[Photo], backbone: Backbone, settings: "Training") -> "Boxed":
        """Whole photos, with their own aspect."""
        unit = backbone.multiple
        side = max(settings.side, backbone.least) // unit * unit
        pictures = Pictures(photos, side=side, multiple=unit, fit="aspect", augment=NONE, budget=settings.budget << 20)
        return cls(pictures, boxes_from_matches(photos, seed=settings.seed))


class ProposalTask:
    """A region proposal network on the map of a frozen one.

    batch: photos a step. scheme: how many proposals are taken, for validation. rate: as a factor of the run's.
    """

    def __init__(
        self,
        module: MapRpn,
        backbone: Backbone,
        boxed: Boxed,
        held_out: Boxed | None,
        *,
        scheme: Scheme,
        batch: int,
        rate: float,
        seed: int,
    ) -> None:
        self.rpn, self.backbone, self.boxed, self.held_out = module, backbone, boxed, held_out
        self.scheme, self.batch, self.rate, self.seed = scheme, batch, rate, seed
        self.module: nn.Module = module

    def groups(self) -> Sequence[Mapping[str, object]]:
        """All parameters at ``rate`` times the run's, being new."""
        return [{"params": list(self.module.parameters()), "lr": self.rate}]

    def batches(self, epoch: int) -> Sequence[Batch]:
        """Photos with a box, each once, in an order drawn by the seed and the epoch."""
        places = np.array(sorted(self.boxed.boxes), np.int64)
        order = np.random.default_rng([self.seed, epoch]).permutation(places)
        return [Batch(part) for part in np.array_split(order, -(-len(order) // self.batch))]

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As the protocol has it: ``MapRpn.losses``, their sum the loss, as means over photos."""
        self.module.train()

        def rows_of(place: int) -> Tensor:
            x, picture, boxes = self._example(self.boxed, place, epoch)
            seed = int(np.random.SeedSequence([self.seed, epoch, step, place]).generate_state(1)[0])
            losses = self.rpn.losses(x, picture, boxes, seed)
            return torch.stack([losses["objectness"] + losses["box"], losses["objectness"], losses["box"]])[None]

        places = batch.places.tolist()
        rows = backward_in_pieces(places, rows_of, len(places), propagate, self._device)
        loss, objectness, box = rows.mean(dim=0).tolist()
        return {"loss": loss, "objectness": objectness, "box": box}

    def validate(self) -> dict[str, float]:
        """How well the best of the proposals fits the box that matches say, and how many are above 0.5."""
        self.module.eval()
        if self.held_out is None or not self.held_out.boxes:
            return {}
        found = []
        for place in sorted(self.held_out.boxes):
            x, picture, boxes = self._example(self.held_out, place, 0)
            proposed, _ = self.rpn.propose(x, picture, top=self.scheme.top, overlap=self.scheme.overlap)
            wanted = boxes[0].tolist()
            found.append(max((intersection_over_union(box, wanted) for box in proposed.tolist()), default=0.0))
        return {"overlap": float(np.mean(found)), "recall": float(np.mean(np.array(found) > 0.5))}

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _example(self, of: Boxed, place: int, epoch: int) -> tuple[Tensor, tuple[int, int], Tensor]:
        """The map of a photo, the (width, height) of its picture, and its box in that, 1×4."""
        if self.backbone.device != self._device:
            self.backbone.to(self._device)
        pixels = of.pictures.picture(place, epoch)
        (x,) = self.backbone(pixels[None])
        height, width = pixels.shape[1:]
        sides = np.array([width, height, width, height], np.float32)
        box = torch.from_numpy(of.boxes[place].fractions * sides)[None].to(self._device)
        return x.clone(), (width, height), box  # a copy, as what inference gives has no part in gradients


def intersection_over_union(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two boxes (x1, y1, x2, y2) of some area."""
    wide, high = (max(0.0, min(one[k + 2], other[k + 2]) - max(one[k], other[k])) for k in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return wide * high / (areas - wide * high)


def phases(recipe: Recipe, settings: "Training") -> Sequence[Phase]:
    """The descriptor on its grid, then the proposals. Raises RecipeError for a recipe of other regions."""
    from resight.learning.schemes.embedding import phases as embedding_phases

    _branch(recipe)
    return [*embedding_phases(recipe, settings), Phase("proposals", make_proposals, write_proposals)]


def make_proposals(recipe: Recipe, lesson: Lesson) -> ProposalTask:
    """The second step's task. Raises RecipeError where no two photos match, or the layer is no map."""
    branch, settings = _branch(recipe), lesson.settings
    weights = Path(branch.weights) if branch.weights else None
    backbone = load_backbone(branch.network, layers=[branch.layer], weights=weights, revision=branch.revision or None)
    (layer,) = backbone.layers
    boxed = Boxed.of(lesson.photos.photos, backbone, settings)
    if not boxed.boxes:
        raise RecipeError(
            f"{lesson.photos.file}: no two photos of one object match by their local features, so that no box is known "
            "to learn proposals from: give photos that share a rigid object, or keep the grid, with scheme = embedding"
        )
    held_out = None if lesson.validation is None else Boxed.of(shown(lesson.validation), backbone, settings)
    module = MapRpn(layer.channels, seed=settings.seed)
    return ProposalTask(
        module,
        backbone,
        boxed,
        held_out,
        scheme=_scheme(branch),
        batch=settings.batch,
        rate=settings.learns.head_rate,
        seed=settings.seed,
    )


def write_proposals(task: Task, recipe: Recipe, lesson: Lesson, into: Path) -> None:
    """The recipe with proposals in the grid's place. What it projects regions by is as it was, as published."""
    if not isinstance(task, ProposalTask):
        raise ValueError("the task is another's")
    photos, boxes = lesson.photos, task.boxed.boxes
    table = copied(recipe, into)
    on = f"boxes of {len(boxes):,} of {len(photos.photos):,} photos of {photos.name}, by their matches"
    task.rpn.fitted_on = on
    task.rpn.save(into / _FILE)
    table["global"]["scheme"] = task.scheme.model_copy(update={"model": _FILE}).model_dump()
    finish(table, into, "proposals", {"on": on, "revision": photos.revision})
    if whitening := table["global"].get("whitening"):
        stage = GlobalStage.model_validate({**table["global"], "whitening": ""})
        (descriptor,) = GlobalDescriber(stage, into, recipe=recipe.name).raw_fingerprints
        replace(Projection.load(into / whitening), descriptor=descriptor).save(into / whitening)


def shown(labelled: LabelledSet) -> list[Photo]:
    """The photos of a set whose object is known, each once; queries' boxes are left aside."""
    names = objects(labelled)
    label = {name: place for place, name in enumerate(sorted(set(names.values())))}
    return [Photo(labelled.locate(path), label[name]) for path, name in sorted(names.items())]


def _branch(recipe: Recipe) -> Branch:
    stage = recipe.global_
    if stage is None or len(stage.branches) != 1 or not isinstance(stage.scheme, Grid | Scheme) or stage.crops:
        raise RecipeError(
            f"recipe {recipe.name}: deep-retrieval trains one branch that pools regions of a rigid grid on the map: "
            'say scheme = { kind = "grid" } in [global], or train it with scheme = embedding'
        )
    return stage.branches[0]


def _scheme(branch: Branch) -> Scheme:
    """The scheme that takes the place of the branch's."""
    if isinstance(branch.scheme, Scheme):
        return branch.scheme
    if not isinstance(branch.scheme, Grid):
        raise ValueError("proposals take a grid's place")
    return Scheme(kind="map-rpn", aggregate=branch.scheme.aggregate)
