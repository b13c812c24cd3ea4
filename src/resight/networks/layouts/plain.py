"""torchvision's and timm's own state dicts, for which timm has the same names (DenseNet's but for a dot)."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from resight.errors import RecipeError
from resight.networks.layouts.published import Layout, Published, build, gem
from resight.networks.layouts.sequential import besides, last_activation
from resight.networks.weights import Checkpoint, timm_name

# By a name that tells the family, its members, told apart by the shapes of their parameters.
_FAMILIES = {
    "layer1.0.conv1.weight": (
        *("resnet50", "resnet101", "resnet18", "resnet34", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    ),
    "features.denseblock1.denselayer1.conv1.weight": ("densenet121", "densenet169", "densenet201", "densenet161"),
    "features.0.weight": ("vgg16", "vgg19", "vgg13", "vgg11", "vgg16_bn", "vgg19_bn", "vgg13_bn", "vgg11_bn"),
}
_CLASSIFIERS = ("classifier.", "fc.", "head.")


def recognise_network(trunk: Mapping[str, Tensor], origin: str) -> str:
    """timm's name of the network whose parameters these are. RecipeError where it is none of torchvision's."""
    shapes = _shapes({timm_name(name): tensor for name, tensor in trunk.items()})
    for sign, members in _FAMILIES.items():
        for name in members if sign in shapes else ():
            if shapes == _own_shapes(name):
                return name
    raise RecipeError(f"{origin}: its network is not recognised from the names and shapes; give it by --network NAME")


@cache
def _own_shapes(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return _shapes(build(name).state_dict())


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Of what features come from: VGG's ``pre_logits`` are its classifier's, and no inference counts batches."""
    return {n: t.shape for n, t in state.items() if not n.endswith("_tracked") and not n.startswith("pre_logits.")}


def convert(checkpoint: Checkpoint, network: str | None) -> Published:
    """network: timm's name, or None to recognise it."""
    state = {timm_name(name): tensor for name, tensor in checkpoint.state.items()}
    network = network or recognise_network(besides(state, *_CLASSIFIERS), str(checkpoint.path))
    own = _own_shapes(network)  # some networks have more than a classifier under these names
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith(_CLASSIFIERS) or name in own}
    return Published(
        network,
        trunk,
        layer=last_activation(trunk, network),
        normalisation=None,
        descriptor=gem(3.0),
        notes=("the network is not made for retrieval: GeM with p = 3 at one scale is a beginning",),
    )


def _recognises(checkpoint: Checkpoint) -> bool:
    return any(sign in {timm_name(name) for name in checkpoint.state} for sign in _FAMILIES)


PLAIN = Layout(
    "plain", "state dict of torchvision or timm", _recognises, lambda checkpoint, _: convert(checkpoint, None)
)
