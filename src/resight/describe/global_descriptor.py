"""The `[global]` stage made runnable: pixels → network → GeM → scales → PCA-whitening (survey Fig. 2)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.features.multiscale import combine_scales
from resight.networks.backbone import load_backbone
from resight.networks.weights import file_sha256
from resight.pooling.gem import gem
from resight.projection.whitening import PcaWhitening
from resight.recipes.recipe import GlobalStage

MIN_SIDE = 32  # pixels; the stride of the usual networks, below which a feature map would be empty


class GlobalDescriber:
    """Describes images by one vector each, as a recipe's `[global]` stage says.

    stage: the recipe's stage.
    folder: the recipe's folder, to which the stage's file names are relative; None for the working folder.
    recipe: the recipe's name, for messages.
    Raises RecipeError where network, weights or whitening cannot be had or do not belong together.
    """

    def __init__(
        self,
        stage: GlobalStage,
        folder: Path | None,
        *,
        recipe: str = "RECIPE",
        device: str | torch.device = "cpu",
    ) -> None:
        self.stage = stage
        self._recipe = recipe
        folder = folder or Path()
        weights = folder / stage.weights if stage.weights else None
        if weights is not None:
            self._check_sha256(file_sha256(weights), str(weights))
        self._backbone = load_backbone(stage.network, layer=stage.layer, weights=weights, device=device)
        if weights is None:
            self._check_sha256(self._backbone.weights_sha256, f"the downloaded weights of {stage.network}")
        self.whitening = self._load_whitening(folder / stage.whitening) if stage.whitening else None

    @property
    def raw_fingerprint(self) -> str:
        """sha256, in hex, of all that decides ``raw``: network, weights and parameters."""
        stage = self.stage
        facts = [stage.max_side, stage.scales, stage.pooling, stage.p, stage.scale_pooling]
        return hashlib.sha256(json.dumps([self._backbone.fingerprint, *facts]).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of all that decides ``describe``: as ``raw_fingerprint``, and the whitening."""
        whitening = self.whitening.fingerprint if self.whitening else ""
        return hashlib.sha256(f"{self.raw_fingerprint} {whitening}".encode()).hexdigest()

    @property
    def weights_sha256(self) -> str:
        """Of the weights file, or of the parameters where they were downloaded."""
        return self._backbone.weights_sha256

    def describe(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(D,) float32, ℓ2-normalised, of H×W×3 uint8 RGB. Raises RecipeError before the recipe is fitted."""
        vector: NDArray[np.float32] = self.describe_batch([pixels])[0]
        return vector

    def describe_batch(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """N×D float32 of N images of one size, as ``describe`` of each."""
        if self.whitening is None:
            raise RecipeError(
                f"recipe {self._recipe} has no whitening yet: run `resight fit {self._recipe} PHOTOS "
                "--weights FILE --into FOLDER` and use --recipe FOLDER"
            )
        return self.whitening.transform(self._raw_batch(images))

    def raw(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(C,) float64, ℓ2-normalised: the descriptor before whitening, for fitting one."""
        vector: NDArray[np.float64] = self._raw_batch([pixels])[0]
        return vector

    def _raw_batch(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        for image in images:
            if image.dtype != np.uint8 or image.shape != (*images[0].shape[:2], 3) or image.size == 0:
                raise ValueError(f"images must be H×W×3 uint8 of one size, not {image.dtype} {image.shape}")
        if not images:
            return np.zeros((0, self._backbone.channels))
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        pooled = [gem(self._backbone(self._resize(x, scale)), self.stage.p) for scale in self.stage.scales]
        vectors = torch.stack(pooled).cpu().numpy()
        return combine_scales(vectors, self.stage.scale_pooling, self.stage.p)

    def _resize(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        """To ``scale`` × the size that fits max_side; only a side under MIN_SIDE is stretched."""
        height, width = x.shape[2:]
        factor = scale * min(1.0, self.stage.max_side / max(height, width))
        size = [max(MIN_SIDE, round(height * factor)), max(MIN_SIDE, round(width * factor))]
        if size == [height, width]:
            return x
        return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)

    def _check_sha256(self, found: str, origin: str) -> None:
        if self.stage.weights_sha256 and found != self.stage.weights_sha256:
            raise RecipeError(
                f"{origin}: sha256 is {found}, but the recipe was made with {self.stage.weights_sha256}: "
                "restore that file, or fit the recipe again with `resight fit`"
            )

    def _load_whitening(self, path: Path) -> PcaWhitening:
        whitening = PcaWhitening.load(path)
        if whitening.descriptor != self.raw_fingerprint:
            raise RecipeError(
                f"{path}: was fitted for another network, other weights or other parameters than the "
                "recipe's [global] table has: fit it again with `resight fit`"
            )
        if whitening.dimension != self.stage.dimensions:
            raise RecipeError(
                f"{path}: has {whitening.dimension} dimensions, the recipe says {self.stage.dimensions}: "
                "fit it again with `resight fit`"
            )
        return whitening
