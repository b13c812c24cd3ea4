"""A recipe's pooling made runnable: the map of one image, or of a region in it, to its vectors (survey §4.2.1)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.artefact import artefact_fingerprint, load_artefact, save_artefact
from resight.errors import RecipeError
from resight.fitted import PhotoSketch
from resight.pooling.average import average
from resight.pooling.cam import cam_crow_regions, class_activation_maps, classes_online
from resight.pooling.crow import channel_weights, crow
from resight.pooling.gem import gem
from resight.pooling.gram import gram
from resight.pooling.heat_diffusion import heat_diffusion
from resight.pooling.locate import contributions, weighted_places
from resight.pooling.mac import mac
from resight.pooling.sba import part_weights, pwa, select_channels
from resight.pooling.spoc import spoc
from resight.pooling.sum_pooling import sum_pooling
from resight.recipes.poolings import CamCrow, Crow, Gem, Heat, Parts, Pooling

_KIND = "channel-statistics"
_PLAIN = {"mac": mac, "average": average, "sum": sum_pooling, "spoc": spoc, "gram": gram}

Pool = Callable[[Tensor], Tensor]  # 1×C×h×w to R×D, R vectors that are aggregated as those of regions are
Places = Callable[[Tensor, Tensor], Tensor]  # 1×C×h×w and directions R×D to h×w, whose sum is Σ direction · vector


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """What some poolings know of a collection's maps.

    mean: (C,) float32, of the features over all positions of all images. variance: (C,) float32, over images, of
    each channel's sum over positions. n, fitted_on: of how many images, and which, in words. photos: which these were,
    where that is known.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    n: int
    fitted_on: str
    photos: PhotoSketch | None = None

    @property
    def fingerprint(self) -> str:
        """sha256 of the kind and the learned values, in hex; ``fitted_on`` and the like do not enter."""
        return artefact_fingerprint(_KIND, {"mean": self.mean, "variance": self.variance})

    def save(self, path: Path) -> str:
        """Write as a safetensors artefact; returns the fingerprint. Raises RecipeError where that fails."""
        photos = {"photos": self.photos.to_json()} if self.photos else {}
        meta = {"n": self.n, "fitted_on": self.fitted_on, **photos}
        return save_artefact(path, _KIND, {"mean": self.mean, "variance": self.variance}, meta)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises RecipeError, naming the file, where it is missing, damaged or something else."""
        tensors, meta = load_artefact(path, _KIND)
        try:
            photos = PhotoSketch.from_json(meta["photos"]) if "photos" in meta else None
            return cls(tensors["mean"], tensors["variance"], int(meta["n"]), str(meta["fitted_on"]), photos)
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"{path}: not statistics that this version can use: {error}") from error


@dataclass
class StatisticsOf:
    """``ChannelStatistics`` of a stream of maps, in float64."""

    n: int = 0
    _positions: int = 0
    _features: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _scatter: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, columns: NDArray[np.floating]) -> None:
        """One image's features at its positions, P×C."""
        total = columns.sum(axis=0, dtype=np.float64)
        if self.n == 0:
            self._features, self._mean, self._scatter = np.zeros((3, len(total)))
        self.n += 1
        self._positions += len(columns)
        self._features += total
        shift = total - self._mean  # Welford's update, which does not cancel
        self._mean += shift / self.n
        self._scatter += shift * (total - self._mean)

    def finish(self, fitted_on: str) -> ChannelStatistics:
        """Raises RecipeError for fewer than two images."""
        if self.n < 2:
            raise RecipeError(f"statistics of channels are learned from two photos at least; here are {self.n}")
        mean, variance = self._features / self._positions, self._scatter / (self.n - 1)
        return ChannelStatistics(mean.astype(np.float32), variance.astype(np.float32), self.n, fitted_on)


def learns(pooling: Pooling) -> bool:
    """Whether the pooling needs ``ChannelStatistics``."""
    return isinstance(pooling, Parts | Heat)


def make_pool(pooling: Pooling, statistics: ChannelStatistics | None, classifier: tuple[Tensor, Tensor] | None) -> Pool:
    """The function that a recipe's pooling names.

    statistics: for what ``learns``. classifier: N×C weights and (N,) biases, for class activation maps.
    Raises RecipeError for more parts or classes than there are.
    """
    match pooling:
        case Gem():
            p = exponent(pooling)
            return lambda x: gem(x, p if isinstance(p, float) else p.to(x))
        case Crow():
            return partial(crow, a=pooling.a, b=pooling.b)
        case Heat():
            mean = None if statistics is None else torch.from_numpy(statistics.mean)
            return partial(heat_diffusion, mean=mean, threshold=pooling.threshold, ground=pooling.ground)
        case Parts():
            return partial(pwa, channels=_channels(pooling, statistics), alpha=pooling.alpha, beta=pooling.beta)
        case CamCrow():
            if classifier is None:
                raise ValueError("class activation maps need a classifier")
            return _class_regions(pooling, *classifier)
    return _PLAIN[pooling.kind]


def exponent(pooling: Gem) -> float | Tensor:
    """p of GeM: a number, or 1×C×1×1 float64."""
    return (
        pooling.p if isinstance(pooling.p, float) else torch.tensor(pooling.p, dtype=torch.float64)[None, :, None, None]
    )


def _channels(pooling: Parts, statistics: ChannelStatistics | None) -> Tensor:
    if statistics is None:
        return torch.zeros(0, dtype=torch.int64)
    if pooling.parts > len(statistics.variance):
        raise RecipeError(f"pooling sba: {pooling.parts} parts of a layer with {len(statistics.variance)} channels")
    return select_channels(torch.from_numpy(statistics.variance), pooling.parts)


def _class_regions(pooling: CamCrow, weights: Tensor, biases: Tensor) -> Pool:
    choose = _choice(pooling, weights, biases)

    def pool(x: Tensor) -> Tensor:
        return cam_crow_regions(x, weights.to(x), choose(x))[0]

    return pool


def make_places(
    pooling: Pooling, statistics: ChannelStatistics | None, classifier: tuple[Tensor, Tensor] | None
) -> Places:
    """Where what ``make_pool`` pools comes from. Arguments and errors as there."""
    match pooling:
        case Parts():
            channels = _channels(pooling, statistics)

            def of_parts(x: Tensor, directions: Tensor) -> Tensor:
                weights = part_weights(x, channels, pooling.alpha, pooling.beta)[0]
                return weighted_places(x[0], weights, directions.reshape(len(weights), -1))

            return of_parts
        case CamCrow():
            if classifier is None:
                raise ValueError("class activation maps need a classifier")
            choose = _choice(pooling, *classifier)

            def of_classes(x: Tensor, directions: Tensor) -> Tensor:
                maps = class_activation_maps(x, classifier[0].to(x), choose(x))[0]
                return weighted_places(x[0], maps, directions * channel_weights(x))

            return of_classes
    parameters = pooling.model_dump(exclude={"kind"})
    if isinstance(pooling, Gem):
        parameters["p"] = exponent(pooling)
    if isinstance(pooling, Heat) and statistics is not None:
        parameters["mean"] = torch.from_numpy(statistics.mean)
    return lambda x, directions: torch.tensordot(directions[0], contributions(x, pooling.kind, **parameters)[0], dims=1)


def _choice(pooling: CamCrow, weights: Tensor, biases: Tensor) -> Callable[[Tensor], Tensor]:
    """The classes whose maps are taken of a map, 1×C×h×w. Raises RecipeError where there are not so many."""
    most = max((*pooling.classes, (0 if pooling.classes else pooling.top) - 1))
    if most >= len(weights):
        raise RecipeError(f"pooling cam-crow: class {most} of a classifier with {len(weights)} classes, 0 the first")
    fixed = torch.tensor(pooling.classes, dtype=torch.int64)
    return lambda x: fixed if len(fixed) else classes_online(x, weights.to(x), biases.to(x), pooling.top)
