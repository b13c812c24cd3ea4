"""A query looked at more than once: turned and smaller, as the table [query] says.

Joining views by the best is MQ-Max of Arandjelović & Zisserman (BMVC 2012) with views of one picture in the place of
several pictures; that a network's descriptor is made invariant by its views is common practice, and ours here.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.describe.describer import Describer
from resight.describe.description import Description
from resight.geometry.parts import Part
from resight.geometry.turning import turn
from resight.images.image import Image
from resight.local.features import LocalFeatures
from resight.recipes.query_stage import QueryStage
from resight.search.examples import joint_descriptor


@dataclass(frozen=True, eq=False)
class View:
    """An image turned anticlockwise by degrees, and the (width, height) it had before."""

    image: Image
    degrees: float
    before: tuple[int, int]

    def restored(self, found: LocalFeatures) -> LocalFeatures:
        """Features of the view where they are in the image before the turn."""
        angle = math.radians(self.degrees)
        back = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        # The centre of the first pixel is at (0, 0).
        centre, turned = ((np.array(size) - 1) / 2 for size in (self.before, self.image.size))
        return replace(
            found,
            xy=((found.xy - turned) @ back.T + centre).astype(np.float32),
            angle=((found.angle + angle) % (2 * math.pi)).astype(np.float32),
        )


def views_of(image: Image, stage: QueryStage) -> list[View]:
    """The image as it is, and its further turns and sizes. Turns that are no quarters keep the size; see ``turn``."""
    found = []
    for scale in stage.scales:
        small = _shrunk(image, scale)
        found += [_turned(small, 360 * number / stage.turns) for number in range(stage.turns)]
    return found


def describe_views(
    describer: Describer, parts: Sequence[Part], stage: QueryStage | None
) -> Iterator[tuple[Description, tuple[Description, ...]]]:
    """For each of what ``Describer.read`` returned, its description, and those of its further views.

    With merge "mean" the global descriptor is the mean of all views', and there are no further ones. In order, together
    and raising as ``Describer.describe_each``.
    """
    if stage is None or stage.views == 1:
        yield from ((description, ()) for description in describer.describe_each(parts))
        return
    views = [views_of(image, stage) for image, _, _ in parts]
    seen = [(view.image, (0.0, 0.0), size) for own, (_, _, size) in zip(views, parts, strict=True) for view in own]
    described = describer.describe_each(seen)
    for own, (_, corner, _) in zip(views, parts, strict=True):
        first, *further = _in_one_frame([next(described) for _ in own], own, corner)
        if stage.merge == "mean":
            lengths = () if describer.recipe.global_ is None else describer.recipe.global_.lengths
            vectors = [v for d in (first, *further) if (v := d.global_descriptor) is not None]
            pooled = joint_descriptor(vectors, [1.0] * len(vectors), lengths)
            first, further = replace(first, global_descriptor=pooled), []
        yield first, tuple(further)


def _in_one_frame(
    described: Sequence[Description], views: Sequence[View], corner: tuple[float, float]
) -> list[Description]:
    """Views' descriptions with features where the first view has them, in the original, of which this is the corner."""
    first = described[0].local
    if first is None:
        return list(described)
    colours = None if first.colours is None else first.colours.moved(*corner)
    found = []
    for description, view in zip(described, views, strict=True):
        local = description.local
        if local is not None:
            local = view.restored(local)
            local = replace(local, xy=local.xy + np.array(corner, np.float32), colours=colours)
        found.append(replace(description, local=local))
    return found


def _turned(image: Image, degrees: float) -> View:
    quarters, rest = divmod(degrees, 90)
    if rest:
        return View(replace(image, pixels=turn(image.pixels, degrees)), degrees, image.size)
    size = image.size if quarters % 2 == 0 else image.size[::-1]
    pixels: NDArray[np.uint8] = np.ascontiguousarray(np.rot90(image.pixels, int(quarters)))
    return View(Image(pixels, size, image.origin), degrees, image.size)


def _shrunk(image: Image, scale: float) -> Image:
    if scale == 1:
        return image
    height, width = image.pixels.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return replace(image, pixels=np.asarray(cv2.resize(image.pixels, size, interpolation=cv2.INTER_AREA), np.uint8))
