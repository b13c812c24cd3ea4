"""What of an image goes through a network: the whole at several scales, or crops of regions (survey §4.1.1).

No torch here, so that worker processes can prepare pictures without it (but for proposals by a trained RPN).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from resight.errors import RecipeError
from resight.geometry.regions import Boxes, dense_windows, nms, rigid_grid, spatial_pyramid
from resight.recipes.network_stages import Branch, Dense, Grid, Keypoints, MapRpn, Proposals, Pyramid, Whole

if TYPE_CHECKING:  # it imports torch
    from resight.regions.rpn import Rpn


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures of one image for one network.

    pictures: H×W×3 uint8 each; one a scale, or one a region. each: whether every picture is a region of its own.
    boxes: R×4 float32 for each of the feeding's proposal schemes, to be pooled on the map of each picture; fractions
        of its sides.
    """

    pictures: tuple[NDArray[np.uint8], ...]
    each: bool
    boxes: tuple[NDArray[np.float32], ...] = ()


@dataclass(frozen=True)
class Feeding:
    """How images are fed to a network.

    branch: any of those that are fed so. proposals: the schemes of all of them that pool proposals on a map.
    multiple, least: sides are multiples of `multiple` and at least `least` pixels; only that bends their aspect.
    """

    branch: Branch
    multiple: int
    least: int
    proposals: tuple[Proposals, ...] = ()

    def views(self, pixels: NDArray[np.uint8]) -> Views:
        """The views of an H×W×3 image."""
        branch, scheme = self.branch, self.branch.scheme
        pictures = tuple(self._scaled(pixels, scale) for scale in branch.scales)
        first = pictures[0]
        height, width = first.shape[:2]
        if isinstance(scheme, Whole | MapRpn) or not branch.crops:
            sides = np.array([width, height, width, height], np.float32)
            boxes = tuple((_propose(first, each) / sides).astype(np.float32) for each in self.proposals)
            return Views(pictures, each=False, boxes=boxes)
        if isinstance(scheme, Keypoints):
            patches = self._patches(first, scheme)
            # An image without a keypoint is one patch, so that it can still be found.
            return Views(tuple(patches) or (_resized(first, (self._side(scheme.side),) * 2),), each=True)
        from resight.regions.patches import cut

        if isinstance(scheme, Proposals):
            regions = _propose(first, scheme)
        else:
            regions = regions_of(scheme, (width, height), (width, height))
        return Views(tuple(cut(first, regions, self._side(scheme.side))), each=True)

    def size(self, width: int, height: int, scale: float = 1.0) -> tuple[int, int]:
        """(width, height) that an image of such sides has at one of the branch's scales."""
        factor = scale * min(1.0, self.branch.max_side / max(height, width))
        return self._side(width * factor), self._side(height * factor)

    def _scaled(self, pixels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
        return _resized(pixels, self.size(pixels.shape[1], pixels.shape[0], scale))

    def _side(self, wanted: float) -> int:
        unit = self.multiple
        return max(-(-self.least // unit) * unit, round(wanted / unit) * unit)

    def _patches(self, picture: NDArray[np.uint8], scheme: Keypoints) -> NDArray[np.uint8]:
        from resight.regions.patches import keypoint_patches

        side = self._side(scheme.side)
        patches, _ = keypoint_patches(picture, scheme.kind, side=side, top=scheme.top, scale=scheme.scale)
        return patches


def regions_of(
    scheme: Grid | Pyramid | Dense | Proposals | MapRpn,
    size: tuple[int, int],
    picture: tuple[int, int],
    boxes: NDArray[np.float32] | None = None,
) -> Boxes:
    """A scheme's regions, R×4, on a picture or map of (width, height) `size`.

    picture: (width, height) in pixels of what `size` is the map of. boxes: proposals, as fractions.
    Raises ValueError where they are needed and not there.
    """
    width, height = size
    if isinstance(scheme, Grid):
        return rigid_grid(width, height, scheme.levels, variant=scheme.variant)
    if isinstance(scheme, Pyramid):
        return spatial_pyramid(width, height, [min(n, width, height) for n in scheme.cells])
    if isinstance(scheme, Dense):
        cell = max(picture) / max(size)
        stride = max(1, round(scheme.stride / cell))
        windows = [dense_windows(width, height, max(1, round(side / cell)), stride) for side in scheme.sides]
        return np.unique(np.concatenate(windows), axis=0)
    if boxes is None:
        raise ValueError("proposals come with the views of an image, or from its map")
    return np.asarray(boxes * np.array([width, height, width, height]), np.float32)


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """To (width, height) by an antialiased triangle filter, which is torch's antialiased bilinear one too."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BILINEAR))


def _propose(whole: NDArray[np.uint8], scheme: Proposals) -> Boxes:
    """The scheme's proposals on a picture, best first, after the whole of it."""
    factor = min(1.0, scheme.seen / max(whole.shape[:2]))
    picture = _resized(whole, (max(1, round(whole.shape[1] * factor)), max(1, round(whole.shape[0] * factor))))
    height, width = picture.shape[:2]
    many = 10 * scheme.top  # so that enough are left after suppression
    from resight.regions import proposals

    model = Path(scheme.model) if scheme.model else None
    if scheme.kind == "selective-search":
        boxes, scores = proposals.selective_search(picture, many)
    elif scheme.kind == "edge-boxes":
        boxes, scores = proposals.edge_boxes(picture, many, model=model)
    elif model is None:
        raise RecipeError(f"scheme {scheme.kind} needs a trained model: name it as `model` in the recipe's scheme")
    elif scheme.kind == "bing":
        boxes, scores = proposals.bing(picture, many, model=model)
    else:
        boxes, scores = _rpn(model)(picture, many)
    kept = boxes[nms(boxes, scores, scheme.overlap, scheme.top)]
    scale = np.array([whole.shape[1] / width, whole.shape[0] / height] * 2, np.float32)
    return np.concatenate([np.array([[0, 0, width, height]], np.float32), kept]) * scale


@lru_cache(maxsize=1)
def _rpn(model: Path) -> "Rpn":
    from resight.regions.rpn import Rpn

    return Rpn(model)
