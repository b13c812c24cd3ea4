"""The compact network as a task: a batch's subjects are rendered, and what is known of them is learned."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.learning.procedural.ahead import Ahead
from resight.learning.procedural.corners import UNKNOWN, cell_targets, corner_response, shared_response, target_pixels
from resight.learning.procedural.correspondences import draw_points, near, read_map
from resight.learning.procedural.distil import Teacher, regression
from resight.learning.procedural.echoes import altered
from resight.learning.procedural.held_out import Features, match_pairs, recall_at_1, strongest
from resight.learning.procedural.losses import dual_softmax, info_nce, nearest_right, relations, reliability
from resight.learning.procedural.scenes import Scenes, render
from resight.learning.procedural.training import ProceduralTraining
from resight.learning.ranks import ranks
from resight.learning.task import Batch
from resight.learning.validate import Validation
from resight.networks.compact import Compact, CompactMaps

HELD_OUT, TAUGHT = 1 << 32, 2 << 32  # added to a seed for the subjects that are never learned from
_KEYPOINTS = 256  # of a picture, in validation
_CHUNK = 16  # subjects through the network at once, in validation


class ProceduralTask:
    """As ``Task`` has it. Subjects are numbered through the run, so that none comes twice.

    Where several processes train together, each takes its share of a batch, whose negatives are its own.
    Close it at the end.
    """

    def __init__(
        self, network: Compact, settings: ProceduralTraining, teacher: Teacher | None, validation: Validation | None
    ) -> None:
        self.network, self.settings, self.teacher = network, settings, teacher
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parts: dict[str, nn.Module] = {"network": network}
        if teacher is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                parts["teaching"] = nn.Linear(network.embedding.out_features, settings.teaching.dimensions)
        self.module: nn.Module = nn.ModuleDict(parts)
        self._validation = validation
        self._held_out: Scenes | None = None
        self._ahead: Ahead | None = None
        self._latest: tuple[int, Scenes] | None = None

    def groups(self) -> Sequence[Mapping[str, object]]:
        """Matrices and convolutions; and, without decay, the rest."""
        own = list(self.module.parameters())
        return [
            {"params": [x for x in own if x.ndim > 1]},
            {"params": [x for x in own if x.ndim <= 1], "weight_decay": 0.0},
        ]

    def batches(self, epoch: int) -> Sequence[Batch]:
        """The epoch's subjects, in the order of their numbers; each batch of them ``echoes`` times in turn."""
        settings, begin = self.settings, epoch * self.settings.steps
        firsts = [step // settings.echoes * settings.subjects for step in range(begin, begin + settings.steps)]
        return [Batch(np.arange(first, first + settings.subjects)) for first in firsts]

    def backward(self, batch: Batch, epoch: int, step: int, propagate: Callable[[Tensor], None]) -> dict[str, float]:
        """As ``Task`` has it. Figures: losses before their weights; right, points matched in their pair."""
        self.module.train()
        draw = torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.settings.seed, step, ranks()[0]]).generate_state(1, np.uint64)[0])
        )
        scenes = self._scenes(batch.places)
        if step % self.settings.echoes:
            scenes = altered(scenes, draw)
        images = scenes.images.transpose(0, 1).flatten(0, 1)  # view 0 of all, then view 1
        maps: CompactMaps = self.network(_laid_out(images))
        taught = None
        if self.teacher is not None:
            chosen = torch.randperm(len(images), generator=draw)[: self.settings.teaching.pictures].to(images.device)
            taught = chosen, self.teacher(images[chosen])
        with torch.autocast(images.device.type, enabled=False):
            weighted, figures = self._local(scenes, maps, draw)
            vector, more = self._vector(scenes, maps, taught)
            loss = weighted + vector
        propagate(loss)
        return {"loss": float(loss.detach()), **figures, **more}

    def validate(self) -> dict[str, float]:
        """Of a labelled set its mAP; of rendered subjects that are not learned from, matching and recall@1.

        held out: the mean of matching score and recall, which decides where there is no labelled set.
        """
        self.module.eval()
        figures: dict[str, float] = {}
        if self._validation is not None:
            figures["mAP"] = self._validation.mean_average_precision(self._embed)
        if self.settings.held_out:
            figures |= self._on_held_out()
        return figures

    def close(self) -> None:
        """End the processes that render."""
        if self._ahead is not None:
            self._ahead.close()

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _scenes(self, places: NDArray[np.int64]) -> Scenes:
        """This process's share of the subjects."""
        settings, (rank, world) = self.settings, ranks()
        own = np.array_split(places, world)[rank]
        if self._ahead is None:
            self._ahead = Ahead(
                settings.seed,
                len(own),
                settings.subjects,
                settings.batches * settings.subjects,
                settings.side,
                settings=lambda first: settings.rendering_at(first // settings.subjects * settings.echoes),
                processes=settings.renderers,
                device=self._device,
            )
        first = int(own[0])
        if self._latest is None or self._latest[0] != first:
            self._latest = first, self._ahead.take(first)
        return self._latest[1]

    def _local(self, scenes: Scenes, maps: CompactMaps, draw: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        how = self.settings.local
        count, _, _, height, width = scenes.images.shape
        response = corner_response(scenes.images.flatten(0, 1), how.sigma).reshape(count, 2, height, width)
        shared = shared_response(response, scenes.warp, scenes.visible)
        alone, seen = response.flatten(0, 1), scenes.visible.flatten(0, 1)
        targets = cell_targets(shared.flatten(0, 1), alone, seen, how.quality)
        weight = 1 + (how.keypoint_share - 1) * target_pixels(targets).float().reshape(count, 2, height, width)
        points = draw_points(scenes.warp, scenes.visible, weight, how.points, draw)
        views, side = (slice(0, count), slice(count, 2 * count)), (height, width)
        read = [read_map(maps.local[own].float(), points, view, side) for view, own in enumerate(views)]
        a, b = (nn.functional.normalize(x, dim=1) for x in read)
        ignored = near(points, how.radius)
        right = nearest_right(a.detach(), b.detach(), points.pair, ignored)
        relied = [read_map(maps.reliability[own].float(), points, view, side)[:, 0] for view, own in enumerate(views)]
        wanted = targets.reshape(count, 2, *targets.shape[1:]).transpose(0, 1).flatten(0, 1)
        losses = {
            "descriptors": dual_softmax(a, b, ignored, how.temperature),
            "reliability": (reliability(relied[0], right) + reliability(relied[1], right)) / 2,
            # Their mean by hand: torch's is not a number where no cell is known.
            "keypoints": nn.functional.cross_entropy(maps.keypoints.float(), wanted, reduction="sum")
            / (wanted != UNKNOWN).sum().clamp(min=1),
        }
        total = sum((getattr(how, name) * loss for name, loss in losses.items()), start=a.new_zeros(()))
        figures = {name: float(loss.detach()) for name, loss in losses.items()}
        return total, {**figures, "right": float(right.float().mean()) if len(right) else 0.0}

    def _vector(
        self, scenes: Scenes, maps: CompactMaps, taught: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, dict[str, float]]:
        how, teaching = self.settings.vector, self.settings.teaching
        x = self._embedded(maps)
        loss = info_nce(x, scenes.subject.to(x.device), how.temperature)
        total, figures = how.weight * loss, {"vector": float(loss.detach())}
        if taught is not None:
            chosen, wanted = taught
            agreed = regression(self.module.get_submodule("teaching"), x[chosen], wanted)
            alike = relations(x[chosen], wanted, teaching.temperature)
            total = total + teaching.regression * agreed + teaching.relations * alike
            figures |= {"regression": float(agreed.detach()), "relations": float(alike.detach())}
        return total, figures

    def _embedded(self, maps: CompactMaps) -> Tensor:
        """n×256 of unit length, in 32 bits whatever the maps were computed in."""
        with torch.autocast(maps.coarse.device.type, enabled=False):
            return self.network.embed(maps.coarse.float())

    @torch.no_grad()
    def _embed(self, pictures: Tensor) -> Tensor:
        """n×256 of n×3×H×W uint8, sides multiples of 32."""
        return self._embedded(self.network(_laid_out(pictures.to(self._device).float() / 255)))

    @torch.no_grad()
    def _on_held_out(self) -> dict[str, float]:
        settings = self.settings
        if self._held_out is None:
            seed = settings.seed + HELD_OUT
            self._held_out = render(seed, 0, settings.held_out, settings.side, settings=settings.rendering)
        scenes = self._held_out
        found: list[Features] = []
        vectors = []
        for first in range(0, settings.held_out, _CHUNK):
            images = scenes.images[first : first + _CHUNK]
            maps: CompactMaps = self.network(_laid_out(images.flatten(0, 1).to(self._device)))
            vectors.append(self._embedded(maps).cpu().numpy().reshape(len(images), 2, -1))
            found += [strongest(maps, place, _KEYPOINTS) for place in range(2 * len(images))]
        matching = match_pairs(scenes, found)
        recall = recall_at_1(np.concatenate(vectors).transpose(1, 0, 2).reshape(2 * settings.held_out, -1))
        return {
            "held out": (matching.score + recall) / 2,
            "matching score": matching.score,
            "precision": matching.precision,
            "repeatability": matching.repeatability,
            "recall": recall,
        }


def _laid_out(images: Tensor) -> Tensor:
    """In the order of memory in which convolutions are fastest."""
    return images.contiguous(memory_format=torch.channels_last)
