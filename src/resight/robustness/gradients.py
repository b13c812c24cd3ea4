"""A recipe's global descriptor with gradients to the pixels: what an attacker who knows the recipe computes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from resight.describe.views import Feeding
from resight.errors import RecipeError
from resight.learning.model import make_model
from resight.learning.model_settings import Learns
from resight.projection.projection import Projection
from resight.recipes.recipe import Recipe


class PixelDescriber:
    """Pixels to the recipe's descriptor: sizes and scales, network, pooling, projection, as ``GlobalDescriber`` has it.

    adapter: of [adapters], by which a collection compares its vectors and the query's, or None.
    A network that the recipe quantises is taken as it was before; codes by [hash] come after. On the CPU.
    Raises RecipeError where the recipe has no network, or something in it no gradient, as ``make_model``.
    """

    def __init__(self, recipe: Recipe, adapter: Projection | None = None) -> None:
        stage = recipe.global_
        if stage is None:
            raise RecipeError(
                f"recipe {recipe.name} has no [global] table, so no network whose gradients an attack could follow: "
                "name a recipe that has one, such as gem-densenet169"
            )
        first, *others = stage.branches
        if any(branch.scales != first.scales for branch in others):
            raise RecipeError(f"recipe {recipe.name}: its branches differ in scales: gradients need the same pictures")
        if len(first.scales) > 1 and any(branch.embedding is not None for branch in stage.branches):
            raise RecipeError(
                f"recipe {recipe.name}: an embedding of several scales has no gradient here: give scales = [1.0]"
            )
        if stage.whiten != "none" and not stage.whitening:
            raise RecipeError(
                f"recipe {recipe.name} has no whitening yet: run `resight fit` first, and name its folder"
            )
        projection = 0 if stage.whiten == "none" else stage.dimensions
        learns = Learns(layers="all", projection=projection)
        model = make_model(stage, weights=None, learns=learns, recipe_name=recipe.name, seed=0)
        self.model = model.eval().requires_grad_(False)
        self.scales = first.scales
        self._adapter = None if adapter is None else tuple(map(torch.from_numpy, (adapter.mean, adapter.matrix)))
        self._feeding = Feeding(first, model.multiple, model.least)

    def __call__(self, pixels: Tensor) -> Tensor:
        """1×3×H×W floating, 0 to 255, to (D,) float32, ℓ2-normalised.

        Sizes change by the filter that ``views`` has; what that rounds is rounded here, and passes gradients as if it
        were not (straight through: Bengio, Léonard & Courville 2013).
        """
        height, width = pixels.shape[2:]
        pictures = []
        for scale in self.scales:
            wide, high = self._feeding.size(width, height, scale)
            x = pixels
            if (high, wide) != (height, width):
                x = interpolate(x, (high, wide), mode="bilinear", align_corners=False, antialias=True)
            pictures.append(straight_through(x, x.round()) / 255)
        descriptor: Tensor = self.model.through(*pictures)[0]
        if self._adapter is None:
            return descriptor
        mean, matrix = self._adapter
        return normalize(matrix @ (descriptor - mean), dim=0)


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """The value, with the gradient of x (BPDA with the identity: Athalye, Carlini & Wagner, ICML 2018)."""
    return x + (value - x).detach()


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """H×W×3 uint8 to 1×3×H×W uint8."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]


def as_pixels(picture: Tensor) -> NDArray[np.uint8]:
    """1×3×H×W of whole values from 0 to 255 to H×W×3 uint8."""
    return np.ascontiguousarray(picture[0].permute(1, 2, 0).to(torch.uint8).numpy())
