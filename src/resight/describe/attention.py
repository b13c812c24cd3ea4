"""A recipe's attention made runnable: the map of a picture to one whose places are weighed (survey §4.2.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.networks.layers import Layer
from resight.networks.weights import file_sha256, load_into, load_state
from resight.pooling.attention_gem import AttentionGeM
from resight.pooling.crn import ContextualReweighting, reweight
from resight.pooling.delf_attention import DelfAttention
from resight.pooling.multiscale_attention import RegionalAttention
from resight.pooling.saliency import feature_saliency, saliency_weights, spectral_residual
from resight.pooling.second_order import SecondOrderAttention
from resight.recipes.attention import AttentionGem, Contextual, Delf, Regional, Saliency, SecondOrder
from resight.recipes.network_stages import Branch
from resight.recipes.poolings import Gem, Pooling

Attend = Callable[[Tensor, NDArray[np.uint8]], Tensor]  # a 1×C×h×w map and the picture it is of, to 1×C×h'×w'

Learned = SecondOrder | Contextual | Delf | Regional | AttentionGem


@dataclass(frozen=True, eq=False)
class Attention:
    """What a branch does to a map before the pooling. fingerprint: of its weights, "" where it has none."""

    attend: Attend
    fingerprint: str = ""


def make_attention(branch: Branch, layer: Layer, folder: Path) -> Attention | None:
    """The attention of a branch, with its weights; None where it has none.

    folder: what the file of weights is relative to.
    Raises RecipeError where there are no weights, the file cannot be used or is another than the recipe's, or its
    parameters do not fit the kind or the layer's channels, listing them.
    """
    check_trained(branch)
    match branch.attention:
        case None:
            return None
        case Saliency(by="norms"):
            return Attention(lambda x, picture: _weighed(x, feature_saliency(x)))
        case Saliency():
            return Attention(lambda x, picture: _weighed(x, torch.from_numpy(spectral_residual(picture))[None, None]))
        case stage:
            module = _make(stage, layer.channels)
            path = folder / stage.weights
            what = f"attention {stage.kind} over the {layer.channels} channels of layer {layer.name}"
            sha256 = _load(module, stage, path, what)
            if isinstance(module, AttentionGeM):
                _check_exponent(module, branch.pooling, path)
            return Attention(partial(_attended, module), sha256)


def check_trained(branch: Branch) -> None:
    """Raises RecipeError where the branch's attention is learned and the recipe names no weights of it."""
    stage = branch.attention
    if stage is not None and not isinstance(stage, Saliency) and not stage.weights:
        raise RecipeError(
            f"attention {stage.kind} has to be trained, which `resight fit` does not do: give its weights in the "
            f'recipe, as attention = {{ kind = "{stage.kind}", weights = "FILE" }}'
        )


def _make(stage: Learned, channels: int) -> nn.Module:
    match stage:
        case SecondOrder():
            if stage.reduction > channels:
                raise RecipeError(
                    f"attention second-order: reduction {stage.reduction} leaves none of {channels} channels"
                )
            return SecondOrderAttention(channels, stage.reduction)
        case Contextual():
            return ContextualReweighting(channels, stage.filters, stage.context)
        case Delf():
            return DelfAttention(channels, stage.hidden, normalise=stage.normalise)
        case Regional():
            return RegionalAttention(channels, stage.hidden, stage.levels, stage.variant)
        case AttentionGem():
            return AttentionGeM(channels, stage.hidden)


def _load(module: nn.Module, stage: Learned, path: Path, what: str) -> str:
    """Load the stage's file into the module; sha256 of the file."""
    state = load_state(path)
    sha256 = file_sha256(path)
    if stage.weights_sha256 not in ("", sha256):
        raise RecipeError(
            f"{path}: sha256 is {sha256}, but the recipe was made with {stage.weights_sha256}: restore that file, or "
            "fit the recipe again with `resight fit`"
        )
    own = {name.removeprefix(stage.prefix): x for name, x in state.items() if name.startswith(stage.prefix)}
    if not own:
        raise RecipeError(f"{path}: no name begins with {stage.prefix!r}; `resight weights show {path}` lists them")
    load_into(module, own, f"{path} ({what})", without=())
    module.eval().requires_grad_(False)
    return sha256


def _attended(module: nn.Module, x: Tensor, picture: NDArray[np.uint8]) -> Tensor:
    x = x.float()
    match module:
        case ContextualReweighting():
            return reweight(x, module(x))
        case DelfAttention():
            return reweight(F.normalize(x, dim=1), module(x))
        case AttentionGeM():
            return reweight(x, 1 + module.mask(x))
        case RegionalAttention():
            vector: Tensor = module(x)
            return vector[:, :, None, None]
    attended: Tensor = module(x)
    return attended


def _weighed(x: Tensor, saliency: Tensor) -> Tensor:
    """By a mean of 1, so that even saliency changes nothing and a mean over positions is ``saliency_sum``."""
    return reweight(x, saliency_weights(x, saliency) * (x.shape[2] * x.shape[3]))


def _check_exponent(module: AttentionGeM, pooling: Pooling, path: Path) -> None:
    learned = module.gem.p.item()
    if isinstance(pooling, Gem) and not np.isclose(pooling.p, learned, rtol=1e-6):
        raise RecipeError(
            f"{path}: was trained with p = {learned:.8g}, the recipe has {pooling.p:g}: say "
            f'pooling = {{ kind = "gem", p = {learned:.8g} }}'
        )
