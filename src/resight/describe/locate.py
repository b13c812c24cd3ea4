"""Where in a picture its similarity to another comes from: the heat map behind a cosine of descriptors (survey §4.2.1).

With the norms, and the factors of a power law, held at the values they have, the cosine of a picture's descriptor with
another's is affine in the features of the picture's regions, through scales, branches and whitening alike. Its gradient
says how much each channel of a feature counts, and ``contributions`` how much of that channel each position of the map
gives. What is left over comes from no position: it is the whitening's mean.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.describe.global_descriptor import GlobalDescriber
from resight.describe.head import Head, cells_on_map
from resight.errors import RecipeError
from resight.projection.projection import Projection
from resight.recipes.attention import MultiAtrous, SecondOrder
from resight.recipes.network_stages import Branch, Dense, GlobalStage, Grid, Pyramid, Whole


@dataclass(frozen=True, eq=False)
class Located:
    """The parts of a similarity, which their sum equals.

    maps: h×w float64 for each branch and scale: the part of each position of the layer's map; below 0 where it speaks
        against the similarity.
    constant: the part that no position has.
    """

    maps: tuple[NDArray[np.float64], ...]
    constant: float

    @property
    def gain(self) -> float:
        """The sum of what is above 0 in the maps."""
        return float(sum(np.maximum(part, 0).sum() for part in self.maps))

    @property
    def loss(self) -> float:
        """The sum of what is below 0 in the maps, at most 0."""
        return float(sum(np.minimum(part, 0).sum() for part in self.maps))

    @property
    def similarity(self) -> float:
        """gain + loss + constant: the cosine, or the mean of cosines under late fusion."""
        return self.gain + self.loss + self.constant

    def over(self, width: int, height: int) -> NDArray[np.float32]:
        """height×width float32: the parts by pixel of the picture, interpolated bilinearly and summed over the maps.

        A map's positions are taken to share the picture equally, as regions on a map do. The sum over pixels is that
        of the maps but for the interpolation.
        """
        heat = np.zeros((height, width))
        for part in self.maps:
            heat += cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) * (part.size / heat.size)
        return heat.astype(np.float32)


def locate(describer: GlobalDescriber, pixels: NDArray[np.uint8], other: NDArray[np.float32]) -> Located:
    """The places of the similarity of H×W×3 uint8 RGB to a picture whose descriptor is `other`, (D,) float32.

    Exact up to rounding: ``similarity`` is the dot product of `other` with ``describer.describe(pixels)``, or their
    branches' weighted mean under late fusion by scores.
    Raises RecipeError, saying which, for a part of the recipe that keeps no places, and ValueError for another D.
    """
    stage = describer.stage
    _check(stage)
    if describer.unlearned:
        raise RecipeError("the recipe has not learned yet what its pooling needs: make it ready with `resight fit`")
    if stage.whiten != "none" and not describer.whitenings:
        raise RecipeError("the recipe has no whitening yet: make one with `resight fit`")
    if other.shape != (sum(stage.lengths),):
        raise ValueError(f"the other's descriptor must have {sum(stage.lengths)} entries, not shape {other.shape}")
    maps: list[tuple[Head, Tensor, list[list[int]]]] = []  # of each branch and scale, with the cells of its regions
    features: list[list[Tensor]] = []  # R×C for each branch and scale
    for head, seen in zip(describer.heads, describer.outputs(describer.prepare(pixels)), strict=True):
        branch, scales = head.branch, []
        for picture, output in seen:
            if output.ndim != 4:
                layer = f"layer {branch.layer} of {branch.network}"
                raise RecipeError(_reason(layer, "it is one vector, without positions"))
            x, cells = output.double(), cells_on_map(branch.scheme, output, picture, None)
            maps.append((head, x, cells))
            pooled = torch.cat([head.pool(x[:, :, y1:y2, x1:x2]) for x1, y1, x2, y2 in cells])
            scales.append(pooled.requires_grad_())
        features.append(scales)
    similarity = _similarity(stage, describer.whitenings, features, torch.from_numpy(other).double())
    flat = [feature for scales in features for feature in scales]
    directions = torch.autograd.grad(similarity, flat)
    linear = sum(float((a * x.detach()).sum()) for a, x in zip(directions, flat, strict=True))
    heats = [_heat(*of, direction) for of, direction in zip(maps, directions, strict=True)]
    return Located(tuple(heats), float(similarity.detach()) - linear)


def _heat(head: Head, x: Tensor, cells: list[list[int]], directions: Tensor) -> NDArray[np.float64]:
    """h×w of a 1×C×h×w map: Σ over its regions and entries of direction · contribution. directions: R×D."""
    heat = torch.zeros(x.shape[2:], dtype=x.dtype)
    # A pooling may make several vectors of a map, in regions of its own.
    for (x1, y1, x2, y2), own in zip(cells, directions.chunk(len(cells)), strict=True):
        heat[y1:y2, x1:x2] += head.places(x[:, :, y1:y2, x1:x2], own)
    return np.asarray(heat.numpy())


def _similarity(
    stage: GlobalStage, whitenings: tuple[Projection, ...], features: list[list[Tensor]], other: Tensor
) -> Tensor:
    """What ``GlobalDescriber`` makes of the features, times `other`, with every norm a constant; no dimension."""
    if stage.whitens_each:
        rows = [torch.cat(scales) for scales in features]
        rows = rows if stage.whiten == "layer" else [_unit(each) for each in rows]
        vectors = [_unit(_projected(w, each).sum(dim=0)) for w, each in zip(whitenings, rows, strict=True)]
    else:
        vectors = [_vector(branch, scales) for branch, scales in zip(stage.branches, features, strict=True)]
        if not stage.late:
            vectors = [_unit(torch.cat([b.weight**0.5 * v for b, v in zip(stage.branches, vectors, strict=True)]))]
        vectors = [_unit(_powered(vector, stage.power)) for vector in vectors]
        if stage.whiten == "image":
            vectors = [_projected(w, vector) for w, vector in zip(whitenings, vectors, strict=True)]
    weights = [branch.weight for branch in stage.branches] if stage.late else [1.0]
    others = torch.split(other, list(stage.lengths))
    return sum((w * (x @ o) for w, x, o in zip(weights, vectors, others, strict=True)), torch.zeros(())) / sum(weights)


def _vector(branch: Branch, scales: list[Tensor]) -> Tensor:
    """(D,) of a branch's regions at each scale, R×C."""
    rows = [_unit(x) for x in scales]
    join = getattr(branch.scheme, "aggregate", "sum") == "concatenate"
    return _unit(torch.stack([_unit(x.flatten() if join else x.sum(dim=0)) for x in rows]).mean(dim=0))


def _projected(whitening: Projection, x: Tensor) -> Tensor:
    mean, matrix = (torch.from_numpy(part).double() for part in (whitening.mean, whitening.matrix))
    return _unit((x - mean) @ matrix.T)


def _powered(x: Tensor, power: float) -> Tensor:
    """sign(x)·|x|^power as x times a factor, which has no gradient, as norms have none."""
    size = x.detach().abs()
    return x * size.where(size > 0, 1.0) ** (power - 1)


def _unit(x: Tensor) -> Tensor:
    """Vectors along the last axis over their norms, which have no gradient; zero vectors stay zero."""
    norm: Tensor = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True)
    return x / norm.where(norm > 0, 1.0)


def _check(stage: GlobalStage) -> None:
    """Raises RecipeError for what cannot be traced back to positions of a map."""
    if stage.also and stage.fusion not in ("concatenate", "scores"):
        raise RecipeError(_reason(f"fusion {stage.fusion}", "it is no weighted sum of what the branches say"))
    for branch in stage.branches:
        scheme = branch.scheme
        if branch.embedding is not None:
            raise RecipeError(_reason(f"embedding {branch.embedding.kind}", "what it counts has left its position"))
        if isinstance(branch.attention, SecondOrder | MultiAtrous):
            raise RecipeError(_reason(f"attention {branch.attention.kind}", "it mixes the positions of the map"))
        if branch.crops:
            raise RecipeError(_reason(f"scheme {scheme.kind} of pixels", "each region has a map of its own"))
        if not isinstance(scheme, Whole | Grid | Pyramid | Dense):
            raise RecipeError(_reason(f"scheme {scheme.kind}", "its regions are not fixed"))
        if not isinstance(scheme, Whole) and scheme.aggregate == "max" and not stage.whitens_each:
            raise RecipeError(_reason('aggregate = "max"', "its value is no sum over regions"))
        if branch.scale_pooling != "mean":
            raise RecipeError(_reason(f'scale_pooling = "{branch.scale_pooling}"', "its value is no sum over scales"))


def _reason(part: str, why: str) -> str:
    return (
        f"{part} leaves a similarity no places in the picture, since {why}. What has places: every pooling, over the "
        "whole map or a grid, pyramid or dense windows on it, summed over regions and scales, under no attention or "
        "one that weighs positions or regions; branches joined by fusion concatenate or scores"
    )
