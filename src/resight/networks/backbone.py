"""A network as a map from pictures to the outputs of its layers: pre-trained, frozen, cut after the last (survey §3).

Networks are timm's and the two of ``classics``; their layers are named in ``layers``.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.networks.architectures import classics, create_network, import_timm
from resight.networks.compact import Compact, compact_weights
from resight.networks.layers import HEAD
from resight.networks.sketch import Sketch, least_side
from resight.networks.trunk import Tap, Trunk
from resight.networks.weights import file_sha256, load_into, load_state, read_batchnorm_eps, set_batchnorm_eps


class Backbone:
    """A frozen network cut after the last of its layers; made by ``load_backbone``.

    layers: what each output is. device: where it is computed.
    multiple: pixels of which the sides of images must be multiples.
    mean, std: what RGB in [0, 1] is normalised by.
    weights_sha256: of the weights file, or of all the parameters where they were downloaded.
    batchnorm_eps: ε set in every batch normalisation, or None for the architecture's own.
    module: B×3×H×W float32 in [0, 1] to a tuple of the layers' outputs, as ``__call__``, for engines to export;
        it computes the whole network, of which an exporter drops what no output needs.
    """

    def __init__(
        self, network: nn.Module, sketch: Sketch, taps: Sequence[Tap], weights_sha256: str, batchnorm_eps: float | None
    ) -> None:
        self.name = sketch.name
        self.layers = tuple(tap.layer for tap in taps)
        self.multiple = sketch.multiple
        config: Any = network.pretrained_cfg
        self.mean: tuple[float, ...] = tuple(config["mean"])
        self.std: tuple[float, ...] = tuple(config["std"])
        self.weights_sha256 = weights_sha256
        self.batchnorm_eps = batchnorm_eps
        self.device = next(network.parameters()).device
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = Trunk(network, taps, self.mean, self.std).to(self.device).eval()

    @cached_property
    def least(self) -> int:
        """The smallest side of a square image, in pixels, for which every layer has an output."""

        @torch.inference_mode()
        def output(side: int) -> tuple[Tensor, ...]:
            return self.module.stopping(torch.zeros(1, 3, side, side, device=self.device))

        return least_side(output, self.multiple)

    def to(self, device: str | torch.device) -> Self:
        """The backbone itself, moved to a device."""
        self.module.to(device)
        self.device = torch.device(device)
        return self

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of everything that decides what the outputs are."""
        layers = ",".join(layer.name for layer in self.layers)
        facts = [self.name, layers, self.weights_sha256, self.batchnorm_eps]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """One output a layer, float32: a map B×C×h×w or a vector B×C.

        images: B×3×H×W RGB: uint8, or floating point in [0, 1].
        Raises ValueError where the sides are no multiples of ``multiple`` or less than the network needs.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be B×3×H×W, not {tuple(images.shape)}")
        height, width = images.shape[2:]
        if height % self.multiple or width % self.multiple:
            unit = self.multiple
            raise ValueError(f"images for {self.name} must have sides in multiples of {unit}, not {height}×{width}")
        x = images.to(self.device).to(torch.float32)  # in this order bytes cross over, not floats
        if not images.is_floating_point():
            x = x / 255
        try:
            return self.module.stopping(x.contiguous(memory_format=torch.channels_last))
        except RuntimeError as error:
            if min(height, width) >= self.least:
                raise
            raise ValueError(f"images for {self.name} need sides of {self.least}, not {height}×{width}") from error


def load_backbone(
    name: str,
    *,
    layers: Sequence[str] = ("features",),
    weights: str | Path | None,
    revision: str | None = None,
    device: str | torch.device = "cpu",
) -> Backbone:
    """The network ``name`` with pre-trained weights, ready to compute the outputs of its layers.

    layers: plain names (see ``layers``) or dotted paths of modules, whose outputs are then taken.
    weights: a file as ``load_state`` reads, with the names of timm's or torchvision's network; or None for the
        weights that timm or torchvision downloads once and then keeps, and for our own network those that come with it.
    revision: commit or tag of the weights' repository on the Hugging Face hub; None for its newest.
    Raises RecipeError where the network, a layer or the weights cannot be had: a network is never left at random.
    """
    if not layers:
        raise RecipeError(f"no layer of {name} was named: name one or more, such as features")
    if weights is not None and revision is not None:
        raise RecipeError(f"weights {weights} and revision {revision} exclude each other: give one")
    sketch = Sketch(name)
    taps = sketch.taps(layers)
    if weights is None and revision is None and isinstance(sketch.network, Compact):
        weights = compact_weights()
    if weights is None:
        network = _download(sketch, taps, revision)
        return Backbone(network.to(device), sketch, taps, _state_sha256(network.state_dict().items()), None)
    sha256, state, eps = file_sha256(weights), load_state(weights), read_batchnorm_eps(weights)
    network = create_network(sketch.name, **sketch.options)
    _load(network, state, weights, taps)
    if eps is not None:
        set_batchnorm_eps(network, eps)
    return Backbone(network.to(device), sketch, taps, sha256, eps)


def load_classifier(name: str, weights: str | Path | None, revision: str | None = None) -> tuple[Tensor, Tensor]:
    """The linear classifier of a network's weights: N×C weights and (N,) biases, float32.

    weights, revision: as in ``load_backbone``. Raises RecipeError where the weights have none that is linear.
    """
    config: Any = create_network(name.partition(".")[0]).pretrained_cfg
    layer = config.get("classifier")
    state = _download_state(name, revision) if weights is None else load_state(weights)
    if not isinstance(layer, str) or f"{layer}.weight" not in state:
        raise RecipeError(
            f"{weights or name}: holds no classifier of {name}, which class activation maps need: give weights of "
            "the whole network, or choose another pooling"
        )
    matrix = state[f"{layer}.weight"].float().flatten(1)
    bias = state.get(f"{layer}.bias")
    return matrix, torch.zeros(len(matrix)) if bias is None else bias.float()


def _download_state(name: str, revision: str | None) -> dict[str, Tensor]:
    if name in classics():
        config: Any = create_network(name).pretrained_cfg
        return torch.hub.load_state_dict_from_url(config["url"], progress=False, check_hash=True, weights_only=True)
    timm = import_timm()
    pinned = _pinned(timm, name, revision)
    return dict(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=pinned).state_dict())


def _load(network: nn.Module, state: dict[str, Tensor], origin: str | Path, taps: Sequence[Tap]) -> None:
    """As ``load_into``; classifiers are left aside.

    What lies beyond the last wanted layer may be missing, and fully connected layers where none is wanted.
    """
    config: Any = network.pretrained_cfg
    names = config.get("classifier") or ()
    unused = [f"{name}." for name in ((names,) if isinstance(names, str) else names)]
    unused += ["aux1.", "aux2."]  # GoogLeNet's, which serve training only
    state = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(unused))}
    heads = ("pre_logits", "classifier")  # VGG's, AlexNet's
    children = [name for name, _ in network.named_children()]
    tapped = [tap.layer.module.partition(".")[0] for tap in taps]
    last = max((children.index(child) if child in children else len(children)) for child in tapped)
    wanted = any(tap.layer.module.startswith((*heads, HEAD)) for tap in taps)
    load_into(network, state, origin, without=(*(() if wanted else heads), *children[last + 1 :]))


def _download(sketch: Sketch, taps: Sequence[Tap], revision: str | None) -> nn.Module:
    try:
        if sketch.name in classics():
            return _download_classic(sketch, taps, revision)
        timm = import_timm()
        pinned = _pinned(timm, sketch.name, revision)
        network: nn.Module = timm.create_model(
            sketch.name, pretrained=True, num_classes=0, pretrained_cfg_overlay=pinned, **sketch.options
        )
    except RecipeError:
        raise
    # The hub's client raises dozens of unrelated types; each means that there are no weights.
    except Exception as error:
        raise RecipeError(
            f"the pre-trained weights of {sketch.name} could not be downloaded ({type(error).__name__}: {error}); "
            "where HF_HUB_OFFLINE is set, only those that were downloaded before are found. "
            "Give a file of them by --weights FILE, or `weights` in the recipe: .safetensors, .npz, .pth or "
            ".pt with the parameter names of timm's network (torchvision's for alexnet and googlenet), such as "
            "model.safetensors from https://huggingface.co/timm"
        ) from error
    return network.eval().requires_grad_(False)


def _download_classic(sketch: Sketch, taps: Sequence[Tap], revision: str | None) -> nn.Module:
    network = create_network(sketch.name)
    config: Any = network.pretrained_cfg
    if "url" not in config:
        raise RecipeError(f"no weights of {sketch.name} can be downloaded: give a file of them by --weights FILE")
    if revision is not None:
        raise RecipeError(f"the weights of {sketch.name} come from {config['url']}, not the hub: leave revision out")
    state = torch.hub.load_state_dict_from_url(config["url"], progress=False, check_hash=True, weights_only=True)
    _load(network, state, config["url"], taps)
    return network


def _pinned(timm: Any, name: str, revision: str | None) -> dict[str, str] | None:
    """What tells timm to download a revision of a network's weights."""
    if revision is None:
        return None
    hub_id = timm.get_pretrained_cfg(name).hf_hub_id
    if not hub_id:
        raise RecipeError(f"the weights of {name} do not come from the Hugging Face hub: leave revision out")
    return {"hf_hub_id": f"{hub_id}@{revision}"}


def _state_sha256(state: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
