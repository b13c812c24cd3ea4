"""The layers of a network under plain names, found by rules over its structure, one rule a family (survey §3).

| family | plain names |
| --- | --- |
| AlexNet | conv1 … conv5 after ReLU; pool1, pool2, pool5; fc6, fc7 after ReLU; fc8, the class scores |
| VGG | conv1_1 … conv5_4 after ReLU; conv1 … conv5, the last of each block; pool1 … pool5; fc6, fc7 after ReLU |
| GoogLeNet | conv1, conv2 (its 3×3), inception3a … inception5b |
| ResNet, ResNeXt, SE-ResNet | conv1 after normalisation and ReLU; layer1 … layer4 |
| DenseNet | conv1 as above; block1 … block4 |
| MobileNet, EfficientNet | stem, stage1 … |
| ConvNeXt, Swin and other hierarchies | stem where there is one, stage1 … |
| compact, our own | stem, stage1 … stage4, at strides 4 … 32; features, 512 channels; pooled, its own descriptor |
| ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP | block.0 …; tokens and cls after the final normalisation |

For all: ``features``, the last map, and (but for AlexNet) ``pooled``, what the network itself makes of it before
a classifier, as which timm counts CLIP's projection. Transformers that normalise after pooling give tokens as
they are before. Fully connected layers slide over the map as convolutions, so they are maps. Any module's dotted
path is a layer too; a plain name wins over a path.
"""

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn

HEAD = "forward_head"


@dataclass(frozen=True)
class Layer:
    """A layer whose output can be taken.

    name: its plain name or dotted path.
    module: the dotted path of the module whose output it is; "" for what ``forward_features`` returns and
        ``HEAD`` for what ``forward_head`` does.
    kind: "map" is B×channels×h×w, "vector" is B×channels.
    stride: pixels between neighbours of the map; None for a vector.
    """

    name: str
    module: str
    kind: Literal["map", "vector"]
    channels: int
    stride: int | None


def plain_names(network: nn.Module) -> dict[str, str]:
    """Plain name → ``Layer.module`` for a network of timm or ``classics``, from its first layer to its last."""
    names = _inner_names(network)
    if _is_transformer(network):
        names["tokens"] = ""
        if getattr(network, "cls_token", None) is not None:
            names["cls"] = ""
    names["features"] = ""
    if "fc8" not in names:
        names["pooled"] = HEAD
    return names


def _inner_names(network: nn.Module) -> dict[str, str]:
    children = dict(network.named_children())
    features = children.get("features", nn.Identity())
    if "inception3a" in children:
        # The paper's conv2 is a 1×1 reduction, torchvision's conv2, and a 3×3 convolution, torchvision's conv3.
        inceptions = {name: name for name in children if name.startswith("inception")}
        return {"conv1": "conv1", "conv2": "conv3", **inceptions}
    if hasattr(features, "denseblock1"):
        return {"conv1": "features.norm0", **_numbered(features, r"denseblock(\d+)", "block", "features.")}
    if any(isinstance(module, nn.Conv2d) for module in features.children()) and "global_pool" not in children:
        return _convolutions(features) | _fully_connected(network)
    if "layer1" in children:
        stem = next((name for name in ("act1", "layer0") if name in children), None)
        return ({"conv1": stem} if stem else {}) | _numbered(network, r"layer([1-9])", "layer")
    if "conv_stem" in children and "bn1" in children:
        return {"stem": "bn1", **_items(children["blocks"], "stage", 1, "blocks")}
    if _is_transformer(network):
        return _items(children["blocks"], "block.", 0, "blocks")
    stem_name = {"stem": "stem"} if "stem" in children else {}
    for container in ("stages", "layers"):
        if container in children:
            return stem_name | _items(children[container], "stage", 1, container)
    return stem_name | (_numbered(network, r"s(\d+)", "stage") or _by_feature_info(network))


def _convolutions(features: nn.Module) -> dict[str, str]:
    """Of a plain sequence of convolutions, ReLUs and poolings; numbered in blocks where blocks have several."""
    blocks: list[list[str]] = [[]]
    pools: list[str] = []
    for path, module in features.named_children():
        if isinstance(module, nn.ReLU):
            blocks[-1].append(f"features.{path}")
        elif isinstance(module, nn.MaxPool2d):
            pools.append(f"features.{path}")
            blocks.append([])
    names: dict[str, str] = {}
    if len(blocks) == len(pools) + 1 == 6:  # VGG: five blocks, each closed by a pooling
        for b, (block, pool) in enumerate(zip(blocks, pools, strict=False), start=1):
            names |= {f"conv{b}_{i}": path for i, path in enumerate(block, start=1)}
            names |= {f"conv{b}": block[-1], f"pool{b}": pool}
        return names
    count = 0  # AlexNet: convolutions in a row, a pooling having the number of the one before it
    for block, pool in zip(blocks, [*pools, ""], strict=True):
        for path in block:
            count += 1
            names[f"conv{count}"] = path
        if pool:
            names[f"pool{count}"] = pool
    return names


def _fully_connected(network: nn.Module) -> dict[str, str]:
    if hasattr(network, "pre_logits"):
        return {"fc6": "pre_logits.act1", "fc7": "pre_logits.act2"}
    return {"fc6": "classifier.2", "fc7": "classifier.5", "fc8": "classifier.6"}


def _is_transformer(network: nn.Module) -> bool:
    """One grid of patches all through: a stack of blocks of equal stride."""
    info = getattr(network, "feature_info", [])
    blocks = getattr(network, "blocks", None)
    strides = {entry["reduction"] for entry in info}
    return hasattr(network, "patch_embed") and blocks is not None and len(info) == len(blocks) and len(strides) == 1


def _numbered(parent: nn.Module, pattern: str, name: str, prefix: str = "") -> dict[str, str]:
    matches = [re.fullmatch(pattern, child) for child, _ in parent.named_children()]
    return {f"{name}{match[1]}": f"{prefix}{match[0]}" for match in matches if match}


def _items(parent: nn.Module, name: str, first: int, path: str) -> dict[str, str]:
    return {f"{name}{i}": f"{path}.{child}" for i, (child, _) in enumerate(parent.named_children(), start=first)}


def _by_feature_info(network: nn.Module) -> dict[str, str]:
    """timm's own list of where the strides change, for families that follow no other rule."""
    modules = {name for name, _ in network.named_modules()}
    paths = [entry["module"] for entry in getattr(network, "feature_info", [])]
    return {f"stage{i}": path for i, path in enumerate(paths, start=1) if path in modules}
