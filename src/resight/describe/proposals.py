"""Regions that a network proposes on the map that is described, in the describer (survey §4.1.1, §5.1.2)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from resight.errors import RecipeError
from resight.networks.layers import Layer
from resight.recipes.network_stages import MapRpn as Scheme
from resight.regions.map_rpn import MapRpn


@dataclass(frozen=True, eq=False)
class RegionProposals:
    """What scheme ``map-rpn`` asks of a map."""

    scheme: Scheme
    network: MapRpn

    @property
    def fingerprint(self) -> str:
        """Of the network's weights."""
        return self.network.fingerprint

    def boxes(self, output: Tensor, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(1 + R)×4, fractions of the sides of the picture: the whole, then proposals on its map, 1×C×h×w."""
        height, width = picture.shape[:2]
        found, _ = self.network.to(output.device).propose(
            output, (width, height), top=self.scheme.top, overlap=self.scheme.overlap
        )
        whole = np.array([[0, 0, 1, 1]], np.float32)
        return np.concatenate([whole, found / np.array([width, height, width, height], np.float32)])

    @classmethod
    def load(cls, scheme: Scheme, layer: Layer, folder: Path) -> Self:
        """folder: what the scheme's model is relative to. Raises RecipeError where it is missing or does not fit."""
        if not scheme.model:
            raise RecipeError(
                "scheme map-rpn proposes regions by a network that has to be trained: make the recipe ready with "
                "`resight train deep-retrieval SET --into FOLDER`"
            )
        path = folder / scheme.model
        network = MapRpn.load(path)
        if network.channels != layer.channels:
            raise RecipeError(
                f"{path}: was trained on {network.channels} channels, layer {layer.name} has {layer.channels}: "
                "train it again with `resight train`"
            )
        return cls(scheme, network)
