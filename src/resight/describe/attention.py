"""A recipe's attention made runnable: the map of a picture to one whose places are weighed (survey §4.2.3)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from resight.describe.pooling import Places, Pool
from resight.errors import RecipeError
from resight.networks.layers import Layer
from resight.networks.weights import file_sha256, load_into, load_state
from resight.pooling.attention_gem import AttentionGeM
from resight.pooling.crn import ContextualReweighting, reweight
from resight.pooling.crow import spatial_weights
from resight.pooling.delf_attention import DelfAttention
from resight.pooling.locate import regional_contributions
from resight.pooling.multi_atrous import MultiAtrousAttention
from resight.pooling.multiscale_attention import RegionalAttention
from resight.pooling.saliency import feature_saliency, saliency_weights, spectral_residual
from resight.pooling.second_order import SecondOrderAttention
from resight.pooling.spoc import centre_prior
from resight.pooling.tokens import class_attention
from resight.recipes.attention import (
    AttentionGem,
    ClassToken,
    Contextual,
    Delf,
    MultiAtrous,
    Regional,
    Saliency,
    SecondOrder,
)
from resight.recipes.network_stages import Branch
from resight.recipes.poolings import Gem, Pooling

# A 1×C×h×w map, the picture it is of, and what is beside it: the class token, 1×C, where the kind needs it.
Attend = Callable[[Tensor, NDArray[np.uint8], Tensor | None], Tensor]

Learned = SecondOrder | Contextual | Delf | MultiAtrous | Regional | AttentionGem


@dataclass(frozen=True, eq=False)
class Attention:
    """What a branch does to a map before the pooling.

    attend: to 1×C×h×w. weigh: to 1×1×h×w, the mask by which that is the map; None where there is none.
    pool, places: in place of the pooling's. fingerprint: of its weights, "" where it has none.
    """

    attend: Attend
    weigh: Attend | None = None
    pool: Pool | None = None
    places: Places | None = None
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
        case Saliency() as stage:
            return _masked(partial(_saliency, stage.by))
        case ClassToken() as stage:
            return _masked(partial(_by_class_token, stage.temperature))
        case stage:
            module = new_attention(stage, layer.channels)
            path = folder / stage.weights
            what = f"attention {stage.kind} over the {layer.channels} channels of layer {layer.name}"
            sha256 = load_attention(module, stage, path, what)
            if isinstance(module, AttentionGeM):
                _check_exponent(module, branch.pooling, path)
            return replace(attention_of(module), fingerprint=sha256)


def check_trained(branch: Branch) -> None:
    """Raises RecipeError where the branch's attention is learned and the recipe names no weights of it."""
    stage = branch.attention
    if stage is not None and not isinstance(stage, Saliency | ClassToken) and not stage.weights:
        raise RecipeError(
            f"attention {stage.kind} has to be trained, which `resight fit` does not do: give its weights in the "
            f'recipe, as attention = {{ kind = "{stage.kind}", weights = "FILE" }}'
        )


def new_attention(stage: Learned, channels: int) -> nn.Module:
    """The module of a learned attention over so many channels, as torch's generator draws it; in training mode.

    Raises RecipeError where the stage leaves none of the channels.
    """
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
        case MultiAtrous():
            return MultiAtrousAttention(channels, stage.dimensions, stage.inner, stage.rates)
        case Regional():
            return RegionalAttention(channels, stage.hidden, stage.levels, stage.variant)
        case AttentionGem():
            return AttentionGeM(channels, stage.hidden)


def load_attention(module: nn.Module, stage: Learned, path: Path, what: str) -> str:
    """Load the stage's file into its module, which no longer learns; the file's sha256.

    path: the file. what: the module in words, for messages.
    Raises RecipeError where the file cannot be used, is another than the recipe's, or does not fit the module.
    """
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


def attention_of(module: nn.Module) -> Attention:
    """What a branch does to a map by a module of ``new_attention``, in float32, with gradients if the module learns."""
    match module:
        case DelfAttention():
            return _masked(lambda x, picture, beside: module(x), unit=True)
        case ContextualReweighting():
            return _masked(lambda x, picture, beside: module(x))
        case AttentionGeM():
            return _masked(lambda x, picture, beside: 1 + module.mask(x))
        case RegionalAttention():

            def places(x: Tensor, directions: Tensor) -> Tensor:
                weights = module.weights(x.float()).to(x)
                parts = regional_contributions(x, weights, module.levels, module.variant, module.whole)
                heat: Tensor = torch.tensordot(directions[0], parts[0], dims=1)
                return heat

            def pool(x: Tensor) -> Tensor:
                vector: Tensor = module(x.float())
                return vector.to(x)

            return Attention(lambda x, picture, beside: x, pool=pool, places=places)

    def rewritten(x: Tensor, picture: NDArray[np.uint8], beside: Tensor | None) -> Tensor:
        attended: Tensor = module(x.float())
        return attended

    return Attention(rewritten)


def _masked(weigh: Attend, *, unit: bool = False) -> Attention:
    """The map times a mask. unit: features are ℓ2-normalised before."""

    def attend(x: Tensor, picture: NDArray[np.uint8], beside: Tensor | None) -> Tensor:
        x = x.float()
        return reweight(F.normalize(x, dim=1) if unit else x, mask(x, picture, beside))

    def mask(x: Tensor, picture: NDArray[np.uint8], beside: Tensor | None) -> Tensor:
        return weigh(x.float(), picture, beside)

    return Attention(attend, mask)


def _saliency(
    by: Literal["norms", "spectral-residual", "centre", "sums"],
    x: Tensor,
    picture: NDArray[np.uint8],
    beside: Tensor | None,
) -> Tensor:
    """By a mean of 1, so that even saliency changes nothing and a mean over positions is ``saliency_sum``."""
    match by:
        case "norms":
            saliency = feature_saliency(x)
        case "spectral-residual":
            saliency = torch.from_numpy(spectral_residual(picture))[None, None]
        case "centre":
            saliency = centre_prior(x.shape[2], x.shape[3])[None, None]
        case "sums":
            saliency = spatial_weights(x).unsqueeze(1)
    return saliency_weights(x, saliency) * (x.shape[2] * x.shape[3])


def _by_class_token(temperature: float, x: Tensor, picture: NDArray[np.uint8], beside: Tensor | None) -> Tensor:
    """By a mean of 1, so that a mean over positions is ``attended_patches``."""
    if beside is None:
        raise ValueError("the class token's attention needs the class token")
    return class_attention(x, beside.float(), temperature) * (x.shape[2] * x.shape[3])


def _check_exponent(module: AttentionGeM, pooling: Pooling, path: Path) -> None:
    learned = module.gem.p.item()
    if isinstance(pooling, Gem) and not np.allclose(pooling.p, learned, rtol=1e-6):
        raise RecipeError(
            f"{path}: was trained with p = {learned:.8g}, the recipe has {pooling.p}: say "
            f'pooling = {{ kind = "gem", p = {learned:.8g} }}'
        )
