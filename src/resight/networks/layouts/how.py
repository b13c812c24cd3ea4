"""HOW: local features of Tolias, Jenicek & Chum (``how/networks/how_net.py``, ``how/stages/evaluate.py``)."""

from collections.abc import Mapping
from typing import Any

from resight.errors import RecipeError
from resight.networks.layouts.published import Layout, Normalisation, Published, normalisation
from resight.networks.layouts.sequential import besides, named, under
from resight.networks.weights import Checkpoint

_STAGES = ("layer1", "layer2", "layer3", "layer4")


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
    return Published(
        network,
        trunk,
        layer=stages[-1] if stages else "features",
        lacks=tuple(stage for stage in _STAGES[len(stages) :] if stage not in present),
        head=head,
        normalisation=_normalisation(params, origin),
        obstacle="it makes local features for ASMK, and a recipe of this version has sift only",
    )


def _normalisation(params: Mapping[str, Any], origin: str) -> Normalisation:
    """Of ``runtime``'s mean_std, or of the first format's mean and std."""
    runtime = params.get("runtime")
    stated = runtime.get("mean_std") if isinstance(runtime, Mapping) else None
    if isinstance(stated, list | tuple) and len(stated) == 2:
        return normalisation(stated[0], stated[1], origin)
    return normalisation(params.get("mean"), params.get("std"), origin)


HOW = Layout("how", "HOW: Tolias, Jenicek & Chum, ECCV 2020", _recognises, _convert)
