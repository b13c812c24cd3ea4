"""Trunks that were published as ``nn.Sequential`` of a torchvision network's children, numbered by position."""

import re
from collections.abc import Mapping

from torch import Tensor

from resight.errors import RecipeError
from resight.networks.weights import timm_name

_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_DENSENET = (
    *("conv0", "norm0", "relu0", "pool0", "denseblock1", "transition1"),
    *("denseblock2", "transition2", "denseblock3", "transition3", "denseblock4", "norm5"),
)


def named(numbered: Mapping[str, Tensor], network: str, origin: str) -> dict[str, Tensor]:
    """timm's names for parameters ``N.rest`` of torchvision's ``network``, cut before its pooling and classifier.

    Raises RecipeError where the network is not a ResNet, VGG or DenseNet, or a position is beyond its children.
    """
    trunk = {}
    for name, tensor in numbered.items():
        position, _, rest = name.partition(".")
        if re.fullmatch(r"resnet\d+", network):
            children: tuple[str, ...] = _RESNET
        elif re.fullmatch(r"densenet\d+", network):
            children = tuple(f"features.{child}" for child in _DENSENET)
        elif re.fullmatch(r"vgg\d+(_bn)?", network):
            children = tuple(f"features.{i}" for i in range(64))
        else:
            raise RecipeError(f"{origin}: its network {network!r} is none that timm has (ResNet, VGG or DenseNet)")
        if not position.isdecimal() or int(position) >= len(children):
            raise RecipeError(f"{origin}: {name} is at no position of {network}")
        trunk[timm_name(f"{children[int(position)]}.{rest}")] = tensor
    return trunk


def last_activation(trunk: Mapping[str, Tensor], network: str) -> str:
    """The layer before the network's last pooling: of VGG the ReLU of its last convolution, else ``features``."""
    if not network.startswith("vgg"):
        return "features"
    return f"features.{last_position(trunk) + 1}"


def last_position(trunk: Mapping[str, Tensor]) -> int:
    """N of the last ``features.N`` that has parameters; 0 where there is none."""
    return max((int(name.split(".")[1]) for name in trunk if name.startswith("features.")), default=0)


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters whose name begins with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def besides(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """The parameters whose name begins with none of ``prefixes``."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}
