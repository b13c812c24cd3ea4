"""DINOv2's own files (Oquab et al.; facebookresearch/dinov2), such as ``dinov2_vits14_pretrain.pth``."""

import importlib

import torch

from resight.errors import RecipeError
from resight.networks.layouts.published import Descriptor, Layout, Published, build
from resight.networks.weights import Checkpoint

_SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}


def _recognises(checkpoint: Checkpoint) -> bool:
    return {"mask_token", "pos_embed", "cls_token", "blocks.0.ls1.gamma"} <= checkpoint.state.keys()


def _convert(checkpoint: Checkpoint, single_scale: bool) -> Published:
    state = checkpoint.state
    if not _recognises(checkpoint):
        raise RecipeError(f"{checkpoint.path}: it lacks the names by which DINOv2's own files are known")
    width = state["cls_token"].shape[-1]
    if width not in _SIZES:
        raise RecipeError(f"{checkpoint.path}: its tokens have {width} entries, which is no published DINOv2")
    network = f"vit_{_SIZES[width]}_patch14_{'reg4_' if 'register_tokens' in state else ''}dinov2"
    with torch.device("meta"):
        model = build(network)
    # It takes entries out of the mapping that it is given.
    trunk = importlib.import_module("timm.models.vision_transformer").checkpoint_filter_fn(dict(state), model)
    return Published(
        network,
        trunk,
        layer="cls",
        descriptor=Descriptor("class token", {"whiten": "none"}),
    )


DINOV2 = Layout("dinov2", "DINOv2: Oquab et al., TMLR 2024", _recognises, _convert)
