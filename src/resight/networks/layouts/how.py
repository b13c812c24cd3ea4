"""HOW: local features of Tolias, Jenicek & Chum (``how/networks/how_net.py``, ``how/stages/evaluate.py``)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from resight.errors import RecipeError
from resight.networks.layouts.affine import centred
from resight.networks.layouts.published import Layout, Local, Normalisation, Published, normalisation
from resight.networks.layouts.sequential import besides, named, under
from resight.networks.weights import Checkpoint

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_SMOOTHING = 3  # cells a side
_UNIT = "descriptors are ℓ2-normalised before ASMK, which its publication does not do"
_WORDS = "words are learned from each collection, where its publication learns 65,536 from SfM-120k"


def _recognises(checkpoint: Checkpoint) -> bool:
    """Its two formats: with ``net_params``, and the first, told from cirtorch's by ``skip_layer``."""
    facts, meta = checkpoint.facts, checkpoint.facts.get("meta")
    of_how = isinstance(facts.get("net_params"), Mapping) or (isinstance(meta, Mapping) and "skip_layer" in meta)
    return of_how and any(name.startswith("features.") for name in checkpoint.state)


def _convert(checkpoint: Checkpoint, single_scale: bool) -> Published:
    origin, params = str(checkpoint.path), checkpoint.facts.get("net_params", checkpoint.facts.get("meta"))
    network = params.get("architecture") if isinstance(params, Mapping) else None
    if not isinstance(params, Mapping) or not isinstance(network, str) or not network.startswith("resnet"):
        raise RecipeError(f"{origin}: HOW's checkpoints name a ResNet as architecture, this one {network!r}")
    trunk = named(under(checkpoint.state, "features."), network, origin)
    present = {name.partition(".")[0] for name in trunk}
    stages = [stage for stage in _STAGES if stage in present]
    head = {
        name.replace("whiten.", "dim_reduction.", 1): tensor
        for name, tensor in besides(checkpoint.state, "features.").items()
    }
    published = Published(
        network,
        trunk,
        layer=stages[-1] if stages else "features",
        lacks=tuple(stage for stage in _STAGES[len(stages) :] if stage not in present),
        head=head,
        normalisation=_normalisation(params, origin),
    )
    smoothing = params.get("smoothing")
    kernel = smoothing.get("kernel_size") if isinstance(smoothing, Mapping) else params.get("feat_pool_k")
    if kernel != _SMOOTHING:
        return replace(published, obstacle=f"it smooths its features by {kernel} cells a side, and a recipe here by 3")
    if not {"dim_reduction.weight", "dim_reduction.bias"} <= head.keys():
        return replace(published, obstacle="it does not reduce its local features, which a recipe of HOW does")
    weight, bias = head["dim_reduction.weight"], head["dim_reduction.bias"]
    fitted_on = f"layer dim_reduction of {checkpoint.path.name}, PCA-whitening of its training photos"
    try:
        reduction = centred(weight.flatten(1), bias, fitted_on)
    except RecipeError as error:
        return replace(published, obstacle=str(error))
    local = Local("HOW", _table(params, single_scale), reduction)
    return replace(published, local=local, notes=(_UNIT, _WORDS))


def _table(params: Mapping[str, Any], single_scale: bool) -> dict[str, Any]:
    """[local] as ``runtime`` says; what that leaves out, and all of the first format's, is the recipe's own."""
    runtime = params.get("runtime")
    stated = runtime if isinstance(runtime, Mapping) else {}
    names = {"image_size": "max_side", "features_num": "max_features", "scales": "scales"}
    table = {ours: stated[theirs] for theirs, ours in names.items() if stated.get(theirs) is not None}
    return {"detector": "how", **table, **({"scales": [1.0]} if single_scale else {})}


def _normalisation(params: Mapping[str, Any], origin: str) -> Normalisation:
    """Of ``runtime``'s mean_std, or of the first format's mean and std."""
    runtime = params.get("runtime")
    stated = runtime.get("mean_std") if isinstance(runtime, Mapping) else None
    if isinstance(stated, list | tuple) and len(stated) == 2:
        return normalisation(stated[0], stated[1], origin)
    return normalisation(params.get("mean"), params.get("std"), origin)


HOW = Layout("how", "HOW: Tolias, Jenicek & Chum, ECCV 2020", _recognises, _convert)
