"""Do colours and shading agree where a homography lays one picture over another?

Descriptors of grey patches tell a carton of apple juice from one of orange juice by its print alone, which both share.
So a small picture is kept beside local features. Inside the convex hull of the inliers both pictures are sampled on
a grid and compared in CIELAB: chroma by its differences from their median, since the light's colour shifts all
alike, and lightness by its correlation, which exposure and contrast leave alone. The measure is ours.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.geometry.homography import corners, inside, project
from resight.images.image import Image
from resight.local.features import Colours

_CHROMA = 15.0  # CIELAB units of difference at which agreement has fallen to 1/e
_QUARTILE = 75.0  # per cent of the samples that must differ by less
_SIDE = 16  # of the grid, in samples
_SEEN, _LEAST = 2.0, 20  # pixels on a side, and samples in both pictures: with fewer there is nothing to compare
_KEPT = 16  # pictures whose colours are kept converted: the query's serves for all candidates
_GREY = 5.0  # a picture whose chroma stays this near its median, at its 95th percentile, was taken without colour


def small_picture(image: Image, side: int) -> Colours:
    """The whole image, averaged to side×side pixels."""
    height, width = image.pixels.shape[:2]
    filtering = cv2.INTER_AREA if side <= min(height, width) else cv2.INTER_LINEAR
    pixels = cv2.resize(np.ascontiguousarray(image.pixels), (side, side), interpolation=filtering)
    return Colours(np.asarray(pixels, np.uint8), (0.0, 0.0, float(image.size[0]), float(image.size[1])))


def sampled(picture: Colours, xy: NDArray[np.floating]) -> NDArray[np.float32]:
    """N×3 CIELAB at N points in the original's pixels, bilinear between the small picture's; nan outside the frame.

    Keypoints' coordinates: (0, 0) is the middle of the original's first pixel.
    """
    at = ((xy + 0.5 - picture.frame[:2]) * picture.scale - 0.5).astype(np.float32)
    seen = np.isfinite(at).all(axis=1) & (at > -0.5).all(axis=1) & (at < len(picture.pixels) - 0.5).all(axis=1)
    found = np.full((len(at), 3), np.nan, np.float32)
    if seen.any():
        x, y = at[seen].T
        found[seen] = cv2.remap(_lab(picture), x[None], y[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
    return found


@lru_cache(_KEPT)
def is_grey(picture: Colours) -> bool:
    """Whether the picture has no colours, or all the same, as an old print has."""
    chroma = _lab(picture)[..., 1:].reshape(-1, 2)
    return bool(np.percentile(np.linalg.norm(chroma - np.median(chroma, axis=0), axis=1), 95) < _GREY)


def agreement(query: Colours, result: Colours, homography: NDArray[np.float64], query_xy: NDArray[np.float32]) -> float:
    """How far the pictures agree where the homography lays them over each other, from 0, not at all, to 1.

    homography: 3×3, query pixels → result pixels, both of the upright originals. query_xy: N×2, the inliers.
    exp(−d / 15) · max(0, r), for d the third quartile of the chroma's differences and r the correlation of lightness.
    Where a picture has no colours only lightness counts. 1 where there is too little to compare: where it lies is seen
    too small, or outside a picture.
    """
    hull = cv2.convexHull(query_xy.astype(np.float32))[:, 0]
    low, high = hull.min(axis=0).astype(float), hull.max(axis=0).astype(float)
    rough = project(homography, corners((low[0], low[1], high[0], high[1])))
    if not np.isfinite(rough).all():
        return 1.0
    sides = [(high - low) * query.scale, (rough.max(axis=0) - rough.min(axis=0)) * result.scale]
    if np.min(sides) < _SEEN:
        return 1.0
    middles = (np.arange(_SIDE) + 0.5) / _SIDE
    grid = low + np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2) * (high - low)
    grid = grid[inside(hull, grid)]
    one, other = sampled(query, grid), sampled(result, project(homography, grid))
    both = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
    if np.count_nonzero(both) < _LEAST:
        return 1.0
    one, other = one[both], other[both]
    shading = _correlation(one[:, 0], other[:, 0])
    if is_grey(query) or is_grey(result):
        return shading
    difference = one[:, 1:] - other[:, 1:]
    difference -= np.median(difference, axis=0)
    distance = np.percentile(np.linalg.norm(difference, axis=1), _QUARTILE)
    return float(np.exp(-distance / _CHROMA) * shading)


@lru_cache(_KEPT)
def _lab(picture: Colours) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(picture.pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def _correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Pearson's, from 0; 1 where one of them is flat, which tells nothing."""
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    flat = len(x)  # a variance of one CIELAB unit, which is what noise has
    return max(0.0, float(x @ y) / norm) if min(x @ x, y @ y) > flat else 1.0
