"""The network of a recipe's local features while it learns, and its file afterwards; DELF's and HOW's alike."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from resight.errors import RecipeError
from resight.learning.card import header_of
from resight.learning.model_trunk import learned_parameters
from resight.networks.backbone import Backbone, load_backbone
from resight.networks.weights import check_sha256
from resight.recipes.local_stages import LayerStage


class MapTrunk(nn.Module):
    """Pictures to the maps of one or several layers of a network, with gradients.

    Batch normalisation and dropout stay as they are for describing, also while the rest learns.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.name, self.layers, self.base_sha256 = backbone.name, backbone.layers, backbone.weights_sha256
        self.multiple, self.least = backbone.multiple, backbone.least
        self.batchnorm_eps = backbone.batchnorm_eps
        self.trunk = backbone.module
        self.requires_grad_(False)

    @classmethod
    def of(cls, stage: LayerStage, *further: str) -> Self:
        """The network of a [local] table at its layer, and at further ones. Raises RecipeError as ``load_backbone``."""
        weights = Path(stage.weights) if stage.weights else None
        layers = (stage.layer, *further)
        backbone = load_backbone(stage.network, layers=layers, weights=weights, revision=stage.revision or None)
        check_sha256(backbone.weights_sha256, stage.weights_sha256, stage.weights or f"the weights of {stage.network}")
        for layer in backbone.layers:
            if layer.kind != "map":
                raise RecipeError(f"layer {layer.name} of {stage.network} is no map: local features need one that is")
        return cls(backbone)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """B×3×H×W uint8, or floating in [0, 1], to B×C×h×w a layer."""
        x = pictures.to(self.trunk.mean.device).float()
        if not pictures.is_floating_point():
            x = x / 255
        outputs: tuple[Tensor, ...] = self.trunk.stopping(x.contiguous(memory_format=torch.channels_last))
        return outputs

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def learn(self, layers: str) -> None:
        """Let the network's parameters learn from a layer on, as ``learned_parameters`` has it, of those only that the
        maps are made with. Raises RecipeError where there are none.
        """
        network = self.trunk.network
        wanted = learned_parameters(network, layers, self.name)
        named = list(network.named_parameters())
        network.requires_grad_(True)
        used = self._used([parameter for _, parameter in named])
        for (name, parameter), counts in zip(named, used, strict=True):
            parameter.requires_grad_(name in wanted and counts)
        if not any(parameter.requires_grad for _, parameter in named):
            names = " or ".join(layer.name for layer in self.layers)
            raise RecipeError(
                f"nothing of {self.name} before {names} learns with learns.layers = {layers!r}: name an earlier layer, "
                "or all"
            )

    def _used(self, parameters: list[nn.Parameter]) -> list[bool]:
        """Whether the maps depend on them, by their gradients for a small picture."""
        side = -(-self.least // self.multiple) * self.multiple
        with torch.enable_grad():
            outputs = self(torch.full((1, 3, side, side), 0.5))
            total = torch.stack([output.sum() for output in outputs]).sum()
        return [gradient is not None for gradient in torch.autograd.grad(total, parameters, allow_unused=True)]

    def save(self, file: Path, facts: Mapping[str, Any]) -> None:
        """Write the network's parameters by timm's names, and what its batch normalisation needs beside them.

        facts: of the training, JSON-serialisable, for the file's header. Raises RecipeError where it cannot be written.
        """
        state = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.trunk.network.state_dict().items()
        }
        layers = ",".join(layer.name for layer in self.layers)
        header = {"network": self.name, "layer": layers, **facts}
        if any(parameter.requires_grad for parameter in self.parameters()):
            header["base_sha256"] = self.base_sha256
        try:
            save_file(state, file, metadata=header_of(header))
            if self.batchnorm_eps is not None:
                meta = json.dumps({"bn_eps": self.batchnorm_eps})
                file.with_name("meta.json").write_text(meta + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise RecipeError(f"{file}: cannot be written: {error}") from error
