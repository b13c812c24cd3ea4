"""A recipe made runnable: an image in, a Description out (survey Fig. 2)."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resight.describe.description import Description
from resight.describe.local_features import LocalExtractor, load_local
from resight.errors import RecipeError
from resight.geometry.boxes import Box
from resight.geometry.parts import Part, read_part, read_parts
from resight.images.apart import run_apart
from resight.images.image import Image
from resight.local.features import LocalFeatures
from resight.recipes.network_stages import GlobalStage
from resight.recipes.recipe import Recipe

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

    from resight.describe.global_descriptor import GlobalDescriber


def load_global(stage: GlobalStage, recipe: str, engine: str | None = None) -> "GlobalDescriber":
    """The [global] stage made runnable. RecipeError if its libraries, weights or whitening cannot be had."""
    try:
        from resight.describe.global_descriptor import GlobalDescriber
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"recipe {recipe} runs a network and needs {error.name}: pip install 'resight[deep]'"
        ) from error
    return GlobalDescriber(stage, None, recipe=recipe, engine=engine)


class Describer:
    """Describes queries as a recipe says. The network, if the recipe has one, is loaded at its first use.

    engine: what runs the network, as ``resight.networks.engine.make_engine`` takes it.
    """

    def __init__(self, recipe: Recipe, engine: str | None = None) -> None:
        self.recipe = recipe
        self.engine = engine
        self._network: GlobalDescriber | None = None
        self._local: LocalExtractor | None = None

    @property
    def network(self) -> "GlobalDescriber | None":
        """The runnable [global] stage, or None where the recipe has none."""
        if self._network is None and self.recipe.global_ is not None:
            self._network = load_global(self.recipe.global_, self.recipe.name, self.engine)
        return self._network

    @property
    def local(self) -> LocalExtractor | None:
        """The runnable [local] stage, or None where the recipe has none."""
        if self._local is None and self.recipe.local is not None:
            self._local = load_local(self.recipe.local, self.recipe.name, self.engine)
        return self._local

    @property
    def fingerprint(self) -> str:
        """sha256, in hex, of the recipe, and of the weights and learned parts of its networks."""
        return self._fingerprint_of(self.recipe)

    def _fingerprint_of(self, recipe: Recipe) -> str:
        """What it is of a recipe with these weights and learned parts."""
        parts = [part.fingerprint for part in (self.network, self.local) if part is not None]
        learned = " ".join(filter(None, parts))
        return hashlib.sha256(f"{recipe.fingerprint} {learned}".encode()).hexdigest()

    def describes_as(self, recipe: Recipe, fingerprint: str) -> bool:
        """Whether images are described alike by this and by another recipe, of which the fingerprint says by what.

        The other's weights need not be there any more.
        """
        stages = {"image", "local", "global_"}
        alike = self.recipe.dump(stages) == recipe.dump(stages)
        return alike and self._fingerprint_of(recipe) == fingerprint

    def read(self, value: "str | Path | PIL.Image.Image | NDArray[np.uint8] | Image", box: Box | None) -> Part:
        """The pixels that describe an image or a box in it.

        Returns them, the (x, y) of their corner in the upright original, and the original's (width, height). A crop
        has the scale the whole image would have had (PROTOCOLS.md), or finer where `min_crop_side` says so.
        Raises ImageError for an unreadable image and QueryError for a box that is empty or leaves it.
        """
        image = self.recipe.image
        if isinstance(value, str | Path):
            return run_apart(read_part, str(value), box, image.max_side, image.min_crop_side)
        return read_part(value, box, image.max_side, image.min_crop_side)

    def describe_regions(self, value: str | Path, boxes: Sequence[Box]) -> "NDArray[np.float32]":
        """The global descriptor of each box of an image, as ``describe`` makes it, R×D, with the image read once.

        Raises as ``describe``, and ValueError where the recipe has no network.
        """
        if self.network is None:
            raise ValueError("the recipe has no global descriptor")
        image = self.recipe.image
        parts = run_apart(read_parts, str(value), boxes, image.max_side, image.min_crop_side)
        return np.stack([self.network.describe(part.pixels) for part, _, _ in parts])

    def describe(
        self, value: "str | Path | PIL.Image.Image | NDArray[np.uint8] | Image", box: Box | None = None
    ) -> Description:
        """The description of an image, or of a box (x1, y1, x2, y2) in pixels of the upright original.

        Local features are in the original's pixels also for a box. Raises as ``read``, and RecipeError where the
        recipe's network cannot run.
        """
        return next(self.describe_each([self.read(value, box)]))

    def describe_each(self, parts: Sequence[Part]) -> Iterator[Description]:
        """The descriptions of what ``read`` returned, in order, each as soon as it is made.

        All go through the network together, and each is what it would be by itself, but for what float32 loses where
        pictures are summed in another order. Raises RecipeError where the recipe's network cannot run.
        """
        network = self.network
        vectors: Iterable[NDArray[np.float32] | None] = [None] * len(parts)
        if network is not None:
            vectors = network.describe_each(network.prepare(image.pixels) for image, _, _ in parts)
        # Local features while the engine goes on with the next pictures.
        for part, vector in zip(parts, vectors, strict=True):
            yield Description(part[2], vector, self._local_of(part))

    def _local_of(self, part: Part) -> LocalFeatures | None:
        image, (left, top), _ = part
        if self.local is None:
            return None
        found = self.local.extract(image)
        colours = None if found.colours is None else found.colours.moved(left, top)
        return replace(found, xy=found.xy + np.array([left, top], np.float32), colours=colours)
