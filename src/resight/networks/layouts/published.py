"""What a published checkpoint says, in this library's terms: the value that every layout converts to."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resight.errors import RecipeError
from resight.networks.architectures import classics, create_network, import_timm
from resight.networks.weights import Checkpoint, load_into

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, eq=False)
class Projection:
    """y = ℓ2(P(x - m)), for a descriptor of ℓ2-normalised x.

    mean: (D,) float64. matrix: K×D float64. fitted_on: where it is from.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]
    fitted_on: str


@dataclass(frozen=True, eq=False)
class Descriptor:
    """A layer's output at each of ``scales`` made a vector, ℓ2, pooled over the scales, ℓ2, then the projection if any.

    title: what it is, in words. table: keys of a recipe's [global] that say how: pooling, scheme, embedding.
    learned: parameters of the embedding.
    """

    title: str
    table: Mapping[str, Any]
    scales: tuple[float, ...] = (1.0,)
    scale_pooling: Literal["mean", "gem"] = "mean"
    projection: Projection | None = None
    learned: Mapping[str, Tensor] = field(default_factory=dict)


def gem(
    p: float,
    scales: tuple[float, ...] = (1.0,),
    scale_pooling: Literal["mean", "gem"] = "mean",
    projection: Projection | None = None,
) -> Descriptor:
    """GeM with exponent p."""
    return Descriptor(f"GeM (p = {p:.4g})", {"pooling": {"kind": "gem", "p": p}}, scales, scale_pooling, projection)


@dataclass(frozen=True, eq=False)
class Local:
    """Local features of the layer.

    title: what they are, in words. table: keys of a recipe's [local] that say how. reduction: of their descriptors,
    which are not ℓ2-normalised before it.
    """

    title: str
    table: Mapping[str, Any]
    reduction: Projection


@dataclass(frozen=True, eq=False)
class Published:
    """A checkpoint, converted.

    network: timm's name; trunk: its parameters under timm's names, in the dtypes of the file.
    layer: whose output the publication pools, as ``load_backbone`` takes it.
    lacks: children of the network beyond ``layer`` that the checkpoint does not have.
    head: the checkpoint's other tensors, under its own names.
    normalisation: per-channel (mean, standard deviation) of RGB in [0, 1]; None for the network's own.
    batchnorm_eps: of every batch normalisation; None for the network's own.
    descriptor, local: how it is made, or both None with ``obstacle`` saying why a recipe of this version cannot say it.
    notes: what whoever imports it should know.
    """

    network: str
    trunk: dict[str, Tensor]
    layer: str = "features"
    lacks: tuple[str, ...] = ()
    head: dict[str, Tensor] = field(default_factory=dict)
    normalisation: Normalisation | None = IMAGENET
    batchnorm_eps: float | None = None
    descriptor: Descriptor | None = None
    local: Local | None = None
    obstacle: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A way in which checkpoints were published.

    source: the paper. recognises: whether a checkpoint is of this layout, from its names.
    convert: (checkpoint, single_scale) to Published; RecipeError where that cannot be.
    """

    name: str
    source: str
    recognises: Callable[[Checkpoint], bool]
    convert: Callable[[Checkpoint, bool], Published]


def build(name: str) -> Any:
    """The network ``name`` without classifier, at random; RecipeError where there is none of that name."""
    if name in classics():
        return create_network(name)
    timm = import_timm()
    if not timm.is_model(name):
        raise RecipeError(f"timm has no network {name!r}")
    return timm.create_model(name, pretrained=False, num_classes=0, global_pool="")


def normalisation(mean: Any, std: Any, origin: str) -> Normalisation:
    """(mean, standard deviation) as a checkpoint states them; ImageNet's for None. RecipeError if not numbers."""
    try:
        stated = [tuple(float(v) for v in own) if own is not None else None for own in (mean, std)]
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{origin}: its mean and std of colours are no numbers: {error}") from error
    return stated[0] or IMAGENET[0], stated[1] or IMAGENET[1]


def exponent(p: Tensor, origin: str) -> float:
    """GeM's p. RecipeError where it is not one number above 0."""
    if p.numel() != 1 or not (math.isfinite(p.item()) and p.item() > 0):
        raise RecipeError(f"{origin}: the exponent of its GeM is not one number above 0")
    return float(p.item())


def check(published: Published, origin: str) -> str:
    """Whether a conversion holds: the trunk is loaded into timm's network.

    Returns why the network would not see what its publication showed it; "" where it does. Raises RecipeError
    listing the missing, unexpected and misshapen names.
    """
    with torch.device("meta"):
        network = build(published.network)
    network.to_empty(device="cpu")  # every parameter comes from the trunk, so none need be drawn at random
    load_into(network, published.trunk, origin, without=("pre_logits", *published.lacks))
    theirs = published.normalisation
    ours = (network.pretrained_cfg["mean"], network.pretrained_cfg["std"])
    if theirs is None or (tuple(map(len, theirs)) == (3, 3) and np.allclose(theirs, ours, rtol=0, atol=1e-3)):
        return ""
    return f"it normalises colours with mean and deviation {theirs}, but {published.network} here with {ours}"
