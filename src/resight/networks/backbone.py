"""A network as a map from pictures to feature maps: timm's architectures, cut at a layer (survey §3)."""

import difflib
import hashlib
import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.networks.torchvision_ops import ensure_torchvision
from resight.networks.weights import file_sha256, load_into, load_state, read_batchnorm_eps, set_batchnorm_eps


class Backbone:
    """A frozen network cut at one layer; made by ``load_backbone``.

    channels: C of its feature maps.
    weights_sha256: of the weights file, or of all the parameters where timm supplied them.
    batchnorm_eps: ε set in every batch normalisation, or None for the architecture's own.
    """

    def __init__(self, network: Any, name: str, layer: str, weights_sha256: str, batchnorm_eps: float | None) -> None:
        self.name = name
        self.layer = layer
        self.weights_sha256 = weights_sha256
        self.batchnorm_eps = batchnorm_eps
        self._network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._device = next(network.parameters()).device
        config = network.pretrained_cfg
        self._mean = torch.tensor(config["mean"], device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(config["std"], device=self._device).view(1, 3, 1, 1)
        self.channels = self._probe()

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of everything that decides what the features are."""
        facts = [self.name, self.layer, self.weights_sha256, self.batchnorm_eps]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Feature maps, B×C×H'×W' float32, of B×3×H×W RGB images: uint8, or floating point in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be B×3×H×W, not {tuple(images.shape)}")
        x = images.to(self._device, torch.float32)
        if not images.is_floating_point():
            x = x / 255
        x = ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        if self.layer == "features":
            return self._network.forward_features(x)  # type: ignore[no-any-return]
        hook = self._network.get_submodule(self.layer).register_forward_hook(_stop)
        try:
            self._network.forward_features(x)
        except _Reached as reached:
            return reached.features
        finally:
            hook.remove()
        raise RecipeError(f"layer {self.layer!r} of {self.name} takes no part in computing its features")

    def _probe(self) -> int:
        """Channels, seen on a 2:3 picture, which tells B×C×H×W from other networks' B×H×W×C and B×N×C."""
        if self.layer != "features" and self.layer not in dict(self._network.named_modules()):
            layers = ["features", *(info["module"] for info in getattr(self._network, "feature_info", []))]
            raise RecipeError(f"{self.name} has no layer {self.layer!r}; try one of {', '.join(layers)}")
        try:
            out = self(torch.zeros(1, 3, 128, 192))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise RecipeError(f"{self.name} cannot take pictures of any size: {error}") from error
        if not isinstance(out, Tensor) or out.ndim != 4 or out.shape[2] * 3 != out.shape[3] * 2:
            raise RecipeError(f"layer {self.layer!r} of {self.name} gives no B×C×H×W map; choose another")
        return out.shape[1]


def load_backbone(
    name: str, *, layer: str = "features", weights: str | Path | None, device: str | torch.device = "cpu"
) -> Backbone:
    """The timm network ``name`` with pre-trained weights, ready to compute features.

    layer: ``features`` for the network's last feature map, after its final normalisation and activation; or
        the dotted name of a module, whose output is taken instead and after which nothing is computed.
    weights: a file as ``load_state`` reads, or None for the weights that timm downloads once and then keeps.
    Raises RecipeError where the network, layer or weights cannot be had: a network is never left at random.
    """
    timm = _import_timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RecipeError(f"timm has no network {name!r}{hint}")
    if weights is None:
        network = _download(timm, name)
        return Backbone(network.to(device), name, layer, _state_sha256(network.state_dict().items()), None)
    sha256, state, eps = file_sha256(weights), load_state(weights), read_batchnorm_eps(weights)
    network = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    load_into(network, state, weights)
    if eps is not None:
        set_batchnorm_eps(network, eps)
    return Backbone(network.to(device), name, layer, sha256, eps)


class _Reached(Exception):
    """No error: how a hook ends a forward pass and hands out what it saw."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


def _stop(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
    raise _Reached(output)


def _import_timm() -> Any:
    ensure_torchvision()
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise RecipeError(f"{error}: a network needs it: pip install 'resight[deep]'") from error


def _download(timm: Any, name: str) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, global_pool="")
    # The hub's client raises dozens of unrelated types; each means that there are no weights.
    except Exception as error:
        raise RecipeError(
            f"the pre-trained weights of {name} could not be downloaded ({type(error).__name__}: {error}). "
            "Give a file of them by --weights FILE, or `weights` in the recipe: .safetensors, .npz, .pth or "
            ".pt with the parameter names of timm's network, such as model.safetensors from "
            "https://huggingface.co/timm"
        ) from error
    return network


def _state_sha256(state: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
