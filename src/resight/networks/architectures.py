"""Networks by name, as they are before their weights come: timm's, the classics (survey §3) and our own."""

import difflib
import fnmatch
import importlib
from typing import Any

from torch import nn

from resight.errors import RecipeError
from resight.networks.torchvision_ops import ensure_torchvision

# The survey's families and their descendants, by what their names match, in the order of their publication.
FAMILIES = {
    "AlexNet": ("alexnet",),
    "VGG": ("vgg??", "vgg??_bn"),
    "GoogLeNet": ("googlenet",),
    "ResNet": (
        "resnet10t",
        "resnet14t",
        "resnet18*",
        "resnet26*",
        "resnet34*",
        "resnet50*",
        "resnet101*",
        "resnet152*",
    ),
    "ResNeXt": ("resnext*",),
    "SE-ResNet": ("seresnet*", "seresnext*"),
    "DenseNet": ("densenet*",),
    "MobileNetV3": ("mobilenetv3_*",),
    "EfficientNet": ("efficientnet_*", "efficientnetv2_*"),
    "ConvNeXt": ("convnext*",),
    "DINOv2": ("*_dinov2",),
    "DINOv3": ("*_dinov3*",),
    "SigLIP": ("*_siglip*",),
    "CLIP": ("vit_*_clip_*",),
    "DeiT": ("deit*",),
    "Swin": ("swin*",),
    "resight": ("compact",),
    "ViT": ("vit_tiny_*", "vit_small_*", "vit_base_*", "vit_large_*", "vit_huge_*"),
}

# Asked of timm in turn until a network no longer insists on one input size; each family knows one or none.
_FREE_SIZE: tuple[dict[str, bool], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})


def import_timm() -> Any:
    """timm; RecipeError saying what to install where it is missing."""
    ensure_torchvision()
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise RecipeError(f"{error}: a network needs it: pip install 'resight[deep]'") from error


def classics() -> dict[str, Any]:
    """The networks that timm has not, as classes by name."""
    ensure_torchvision()
    module = importlib.import_module("resight.networks.classics")
    return dict(module.CLASSICS)


def network_names(pattern: str = "*") -> tuple[tuple[str, str], ...]:
    """(name, family) of every network: the survey's families first, in its order, then others with family "".

    pattern: as in a shell (``*``, ``?``, ``[…]``); one without such a sign is looked for anywhere in a name.
    """
    if not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    names = sorted({*classics(), *import_timm().list_models()})
    families = list(FAMILIES)
    labelled = [(name, _family(name)) for name in names if fnmatch.fnmatchcase(name, pattern)]
    return tuple(sorted(labelled, key=lambda row: families.index(row[1]) if row[1] else len(families)))


def check_name(name: str) -> None:
    """RecipeError, with the nearest names, unless ``name`` is a network: timm's ``NAME`` or ``NAME.TAG``."""
    if name in classics():
        return
    timm = import_timm()
    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        near = difflib.get_close_matches(bare, [*classics(), *timm.list_models()], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RecipeError(f"there is no network {name!r}{hint} `resight networks list` names them all")
    if tag and name not in timm.list_models(f"{bare}.*", pretrained=True):
        tags = ", ".join(timm.list_models(f"{bare}.*", pretrained=True)) or "none"
        raise RecipeError(f"there are no weights {name!r} for network {bare}; timm knows {tags}")


def create_network(name: str, **options: Any) -> nn.Module:
    """The network with random parameters, frozen, in evaluation mode, without classifier (AlexNet keeps its own).

    options: as ``free_size_options`` found them. Parameters lie on the device of the enclosing ``torch.device``.
    """
    made = classics().get(name)
    network: nn.Module = made() if made else import_timm().create_model(name, num_classes=0, **options)
    return network.eval().requires_grad_(False)


def create_free_size(name: str) -> tuple[nn.Module, dict[str, bool]]:
    """``create_network``, told to take any input size where its family can be; and the options that did it."""
    for options in _FREE_SIZE:
        try:
            network = create_network(name, **options)
        except TypeError:  # the family's constructor does not know the option
            continue
        if not getattr(getattr(network, "patch_embed", None), "strict_img_size", False):
            return network, options
    raise RecipeError(f"network {name} takes pictures of one size only: choose another")


def _family(name: str) -> str:
    for family, patterns in FAMILIES.items():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return family
    return ""
