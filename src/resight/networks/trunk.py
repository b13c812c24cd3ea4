"""A network run once for the outputs of several of its layers, each brought to B×C×h×w or B×C."""

from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resight.networks.layers import HEAD, Layer


@dataclass(frozen=True)
class Tap:
    """How the output of a layer's module becomes a map or a vector.

    layout: of the output: "BCHW", "BHWC", "BNC" (a sequence of tokens, which is a map in reading order), "BC", or
        "first", a sequence of which the first token is taken.
    prefix: number of tokens before those of the map (class token, registers).
    """

    layer: Layer
    layout: Literal["BCHW", "BHWC", "BNC", "BC", "first"]
    prefix: int = 0

    def shaped(self, output: Tensor, height: int, width: int) -> Tensor:
        """The map or vector; height and width are the picture's, in pixels."""
        match self.layout:
            case "BHWC":
                return output.permute(0, 3, 1, 2)
            case "BNC":
                assert self.layer.stride is not None  # a sequence's layer is a map
                rows, columns = height // self.layer.stride, width // self.layer.stride
                patches = output[:, self.prefix :].transpose(1, 2)
                return patches.reshape(-1, self.layer.channels, rows, columns)
            case "first":
                return output[:, 0]
        return output


class Trunk(nn.Module):
    """Normalisation, network and taps: what execution engines export. Holds no state between calls.

    mean, std: (3,) of RGB in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, taps: Sequence[Tap], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.taps = tuple(taps)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._modules_taken = tuple(dict.fromkeys(tap.layer.module for tap in taps))
        for module in self._modules_taken:
            watch(network, module)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One B×C×h×w or B×C a tap, of B×3×H×W float32 in [0, 1]. Runs without exceptions, so it can be traced."""
        return self._run(images, stop=False)

    def stopping(self, images: Tensor) -> tuple[Tensor, ...]:
        """As ``forward``; nothing is computed after the last tap."""
        return self._run(images, stop=True)

    def _run(self, images: Tensor, stop: bool) -> tuple[Tensor, ...]:
        taken = run(self.network, (images - self.mean) / self.std, self._modules_taken, stop=stop)
        return tuple(tap.shaped(taken[tap.layer.module], images.shape[2], images.shape[3]) for tap in self.taps)


def watch(network: nn.Module, module: str) -> None:
    """Make the output of a module of ``network`` available to ``run``; once, as hooks add up."""
    if module not in ("", HEAD):
        network.get_submodule(module).register_forward_hook(partial(_take, module))


def run(network: Any, x: Tensor, modules: Collection[str], *, stop: bool) -> dict[str, Any]:
    """Outputs by module (``Layer.module``) of one pass; of a module that runs twice, the first.

    modules: watched ones. One that takes no part in computing the features or the head is absent from the result.
    stop: end the pass once all are there.
    Safe in threads that share a network: a pass belongs to its own.
    """
    current = _Pass(frozenset(modules), stop)
    token = _PASS.set(current)
    try:
        features = network.forward_features(x)
        current.take("", features)
        if len(current.taken) < len(current.wanted):
            current.take(HEAD, network.forward_head(features, pre_logits=True))
    except _Reached:
        pass
    finally:
        _PASS.reset(token)
    return current.taken


@dataclass
class _Pass:
    wanted: frozenset[str]
    stop: bool
    taken: dict[str, Any] = field(default_factory=dict)

    def take(self, module: str, output: Any) -> None:
        if module not in self.wanted or module in self.taken:
            return
        if self.stop and len(self.taken) + 1 == len(self.wanted):
            self.taken[module] = output
            raise _Reached
        # What follows may work in place: a ReLU, or a residual added to its branch.
        self.taken[module] = output.clone() if isinstance(output, Tensor) else output


_PASS: ContextVar[_Pass | None] = ContextVar("pass", default=None)


class _Reached(Exception):
    """No error: how a pass ends early."""


def _take(module: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    current = _PASS.get()
    if current is not None:
        current.take(module, output)
