"""Small siblings, with random weights, of the recipes that come with resight, and a set to measure them on."""

import json
import shutil
from pathlib import Path

import safetensors.torch
import torch

from resight.networks.architectures import create_network
from resight.pooling.crn import ContextualReweighting
from resight.pooling.multi_atrous import MultiAtrousAttention
from resight.pooling.second_order import SecondOrderAttention
from resight.recipes import load_recipe
from resight.recipes.network_stages import GlobalStage

# What replaces the recipe's own network and sizes; a random network still knows a picture from others.
TINY = {"network": "resnet10t", "layer": "layer3", "max_side": 128, "dimensions": 8}
PATCHES = {"kind": "dense", "on": "pixels", "stride": 48, "side": 64}
VLAD = {"kind": "vlad", "words": 4, "reduce": 8}
SIBLINGS = {
    "blcf": TINY | {"embedding": {"kind": "bow", "words": 8, "idf": False, "reduce": 6}},
    "blcf-saliency": TINY | {"embedding": {"kind": "bow", "words": 8, "idf": False, "reduce": 6}},
    "ccs": TINY
    | {
        "embedding": VLAD,
        "also": [
            {"scheme": {"kind": "selective-search", "on": "pixels", "top": 3, "side": 64}, "pooling": "average"},
            {"scheme": {"kind": "dog", "top": 5, "side": 64}, "pooling": "average"},
        ],
    },
    "cam-crow": TINY | {"layer": "layer4", "pooling": {"kind": "cam-crow", "top": 3}},
    "compact-verified": {"max_side": 128},
    "crn": TINY
    | {
        "attention": {"kind": "crn", "filters": [[3, 4], [5, 2]], "context": [5, 5]},
        "embedding": {"kind": "netvlad", "words": 4},
    },
    "crow": TINY,
    "deepindex": TINY
    | {
        "dimensions": 64,
        "scheme": {"kind": "pyramid", "on": "pixels", "cells": [1, 2], "side": 64},
        "embedding": {"kind": "bow", "words": 8, "assignments": 2, "idf": False},
        "also": [{"layer": "layer4"}],
    },
    "deep-retrieval": TINY,
    "dinov2": {"max_side": 98},
    "dinov3": {"max_side": 96},
    "dolg": TINY
    | {
        "scales": [1.0],
        "also": [
            {
                "layer": "layer2",
                "pooling": "average",
                "attention": {"kind": "multi-atrous", "dimensions": 256, "inner": 8, "rates": [1, 2]},
            }
        ],
    },
    "faemb": TINY | {"embedding": {"kind": "faemb", "mask": "max", "reduce": 6, "anchors": 4}},
    "fv-cnn": TINY | {"embedding": {"kind": "fisher", "components": 4, "reduce": 8}},
    "gan-retrieval": TINY,
    "gem": TINY | {"scales": [1.0, 0.7071]},
    "gem-densenet169": {"network": "resnet10t", "max_side": 128, "dimensions": 8},
    "gem-any-orientation": {"network": "resnet10t", "max_side": 128, "dimensions": 8},
    "gem-sfm": TINY | {"scales": [1.0, 0.7071]},
    "heat-diffusion": TINY,
    "irt": {"network": "test_vit", "max_side": 96, "dimensions": 64},
    "listwise-ap": TINY,
    "mac": TINY,
    "mdp-cnn": TINY,
    "mof": TINY
    | {
        "dimensions": 24,
        "embedding": {"kind": "bow", "words": 8},
        "also": [{"layer": "layer2"}, {"layer": "layer4", "weight": 0.5}],
    },
    "mom": TINY,
    "mop-cnn": TINY
    | {"also": [{"scheme": PATCHES | {"sides": [64]}, "embedding": VLAD}, {"scheme": PATCHES | {"sides": [48]}}]},
    "multilayer-cnn": {"network": "resnet10t", "max_side": 128, "dimensions": 8},
    "multiscale-cnn": TINY | {"also": [{"layer": "layer2"}, {"layer": "conv1"}]},
    "netvlad": TINY | {"embedding": {"kind": "netvlad", "words": 4}},
    "neural-codes": TINY | {"layer": "layer4"},
    "neural-codes-finetuned": TINY | {"layer": "layer4"},
    "oldfp": TINY | {"scheme": {"kind": "selective-search", "on": "pixels", "top": 4, "side": 64, "aggregate": "max"}},
    "patch-ckn": TINY
    | {"scheme": {"kind": "hessian-affine", "top": 30, "side": 64}, "embedding": VLAD | {"normalise": ["power"]}},
    "quartet-net": TINY | {"layer": "layer4"},
    "r-mac": TINY,
    "rmac-densenet169-verified": TINY | {"layer": "layer4", "dimensions": 640, "also": [{"layer": "layer2"}]},
    "rn-bof": TINY | {"embedding": {"kind": "learned-bof", "words": 8}},
    "sba": TINY | {"pooling": {"kind": "sba", "parts": 4}},
    "selective-conv": TINY | {"embedding": {"kind": "t-embedding", "mask": "sum", "reduce": 8, "words": 4}},
    "sfm-cnn": TINY,
    "siam-fv": TINY | {"embedding": {"kind": "fisher-layer", "words": 4, "reduce": 8}},
    "sift-cnn": TINY,
    "siglip": {"network": "test_vit3", "max_side": 96, "dimensions": 96},
    "smooth-ap": TINY,
    "solar": TINY | {"attention": {"kind": "second-order", "reduction": 4}},
    "spoc": TINY,
    "two-stream-attention": TINY,
    "vlad-cnn": TINY | {"embedding": VLAD},
}
# Of those that hash.
SMALLEST = {"network": "resnet10t", "layer": "layer2", "max_side": 64, "dimensions": 8}
WHOLE = SMALLEST | {"dimensions": 128}  # channels of the layer
HASHING = {
    "ae-hash": SMALLEST,
    "deepbit": WHOLE,
    "dsth": WHOLE,
    "itq-hash": SMALLEST,
    "rbm-hash": SMALLEST,
    "sah": SMALLEST | {"embedding": {"kind": "gmp", "mask": "max", "reduce": 8}},
    "ssdh": WHOLE,
}

# Of those that re-rank and describe in their own way; others do as gem-densenet169.
RERANKING = {"cnn-aug-ss": TINY, "compact": {"max_side": 128}, "faster-rcnn": TINY}


def labelled_copy(photos: Path, folder: Path) -> Path:
    """The photos, copied to the folder, as a labelled set in which those match whose names begin alike."""
    shutil.copytree(photos, folder)
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    queries = {name: {"positives": [n for n in names if n[:4] == name[:4] and n != name]} for name in names}
    (folder / "gt.json").write_text(json.dumps({"name": "views", "database": names, "queries": queries}))
    return folder


def with_attention(stage, path):
    """The stage with made-up weights of its attention, which would have to be trained."""
    if stage.attention.kind == "crn":
        module = ContextualReweighting(256, stage.attention.filters, stage.attention.context)
    else:
        module = SecondOrderAttention(256, stage.attention.reduction)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, 0, 0.05)
    safetensors.torch.save_file(module.state_dict(), path)
    return stage.model_copy(update={"attention": stage.attention.model_copy(update={"weights": str(path)})})


def with_local_branch(stage, path):
    """The stage with made-up weights of DOLG's local branch, over 128 channels."""
    safetensors.torch.save_file(MultiAtrousAttention(128, 256, 8, (1, 2)).state_dict(), path)
    (local,) = stage.also
    return stage.model_copy(update={"also": ({**local, "attention": {**local["attention"], "weights": str(path)}},)})


def small_stage(name: str, folder: Path) -> GlobalStage:
    """The [global] stage of a recipe's sibling, whose network's random weights are written into the folder.

    What would have to be trained is made up.
    """
    recipe = load_recipe(name)
    table = {**SIBLINGS, **HASHING, **RERANKING}.get(name, SIBLINGS["gem-densenet169"])
    stage = GlobalStage.model_validate(recipe.global_.model_dump() | table)
    torch.manual_seed(0)
    if getattr(stage.attention, "weights", None) is not None:
        stage = with_attention(stage, folder / "trained.safetensors")
    if name == "dolg":
        stage = with_local_branch(stage, folder / "trained.safetensors")
    network = create_network(stage.network)
    state = dict(network.state_dict())
    if name == "cam-crow":
        state |= {"fc.weight": torch.randn(10, network.num_features), "fc.bias": torch.zeros(10)}
    for parameter_name, parameter in network.named_parameters():
        if "gamma" in parameter_name:  # the blocks of DINOv2 and DINOv3 begin as next to nothing
            parameter.fill_(1)
    weights = folder / "weights.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, weights)
    return stage.model_copy(update={"weights": str(weights)})
