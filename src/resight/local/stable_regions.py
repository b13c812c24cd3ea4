"""Maximally stable extremal regions (Matas et al., BMVC 2002), of many small pictures at once (survey §4.2.2)."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_MAX_VARIATION, _DIVERSITY = 0.5, 0.7
_LEAST, _MOST = 0.001, 0.75  # of a picture's area


@dataclass(frozen=True, eq=False)
class StableRegions:
    """R regions of several pictures, which have M pixels together; all int64.

    picture: R, ascending, which picture each is of; of one picture the most stable is first.
    region, y, x: M, of each pixel its region and where it lies; in no order, and again for each region it is in.
    """

    picture: NDArray[np.int64]
    region: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]


def stable_regions(pictures: NDArray[np.uint8], delta: int, clutter: int | None = None) -> StableRegions:
    """The maximally stable bright regions of n×h×w pictures; none of those that have more than `clutter`.

    A region is a 4-connected component of the pixels at and above a level, of 0.1 to 75 % of the picture; it varies by
    the share by which it is larger Δ levels lower, at most by half. Of two nested regions that differ by less than
    70 % of the larger only the more stable is kept, as in VLFeat. Ties go to the larger.
    """
    picture, y, x, level = _candidates(pictures)
    if len(picture) == 0:
        return StableRegions(picture, y, y, x)
    # Each picture at each level that is asked for, one below another, so that all are labelled at once: of each only
    # the rows that reach the level, and the one after such, which is dark and keeps them apart.
    lower = np.where(level > delta, level - delta, level)
    planes, plane = np.unique(256 * picture + np.stack([level, lower]), return_inverse=True)
    plane = plane.reshape(2, -1)
    of, least = planes // 256, (planes % 256).astype(np.uint8)[:, np.newaxis]
    padded = np.pad(pictures, ((0, 0), (0, 1), (0, 0)))
    reached = padded.max(axis=2)[of] >= least
    reached[:, 1:] |= reached[:, :-1]
    place = np.cumsum(reached).reshape(reached.shape) - 1  # of a row; of one that is left out, a dark one's
    at, row = np.nonzero(reached)
    bright = padded[of[at], row] >= least[at]
    numbers = cv2.connectedComponents(bright.view(np.uint8), connectivity=4)[1]
    pixels = np.flatnonzero(bright)
    numbered = numbers.ravel()[pixels]
    areas = np.bincount(numbered)

    number, below = numbers[place[plane, y], x]
    variation = np.where(level > delta, areas[below], pictures[0].size) / areas[number] - 1
    once = np.unique(number, return_index=True)[1]
    once = once[(variation[once] <= _MAX_VARIATION) & (areas[number[once]] <= _MOST * pictures[0].size)]
    once = once[np.lexsort((once, -areas[number[once]], variation[once], picture[once]))]
    picture, y, x, plane, number = picture[once], y[once], x[once], plane[0, once], number[once]

    def holds(large: NDArray[np.int64], small: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray(numbers[place[plane[large], y[small]], x[small]] == number[large])

    kept = _diverse(picture, areas[number], holds)
    if clutter is not None:
        kept &= np.bincount(picture[kept], minlength=len(pictures))[picture] <= clutter

    region = np.full(len(areas), -1)
    region[number[kept]] = np.arange(kept.sum())
    region = region[numbered]
    at, x = np.divmod(pixels[region >= 0], bright.shape[1])
    return StableRegions(picture[kept], region[region >= 0], row[at], x)


def _candidates(pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    """4×R: picture, row and column of a pixel of each region that OpenCV lists, and the region's level.

    It lists them at Δ = 1 and without its own thinning, which drops stable regions beside ones that it does not
    report. It does not say how stable they are. Of some it lists only a part, where two grow together: these have to
    be completed, which makes some the same, and some too large.
    """
    pixels = pictures.shape[1] * pictures.shape[2]
    least, most = max(2, int(_LEAST * pixels)), int(_MOST * pixels)
    mser = cv2.MSER.create(delta=1, min_area=least, max_area=most, max_variation=1.0, min_diversity=0.0)
    mser.setPass2Only(True)  # bright regions
    picture, listed = list[int](), list[NDArray[np.int32]]()
    if min(pictures.shape[1:]) >= 3:  # OpenCV refuses smaller pictures
        for place in np.flatnonzero(pictures.any(axis=(1, 2))).tolist():
            listed += map(np.asarray, mser.detectRegions(np.ascontiguousarray(pictures[place]))[0])
            picture += (len(listed) - len(picture)) * [place]
    if not listed:
        return np.empty((4, 0), np.int64)
    sizes = np.array([len(region) for region in listed])
    x, y = np.concatenate(listed).T
    start = np.cumsum(sizes) - sizes
    level = np.minimum.reduceat(pictures[np.repeat(picture, sizes), y, x], start)
    found = np.stack([np.array(picture), y[start], x[start], level]).astype(np.int64)
    return found[:, level > 0]  # at level 0 all is connected


def _diverse(
    picture: NDArray[np.int64],
    area: NDArray[np.int64],
    holds: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]],
) -> NDArray[np.bool_]:
    """Which regions stay, of each picture the first first. holds: whether the larger of two has the smaller in it."""
    first, second = _pairs_within(picture)
    small, large = np.where(area[first] <= area[second], (first, second), (second, first))
    alike = area[large] - area[small] < _DIVERSITY * area[large]
    first, second, small, large = (rows[alike] for rows in (first, second, small, large))
    nested = holds(large, small)  # else they are disjoint
    stays = len(picture) * [True]
    for stronger, weaker in zip(first[nested].tolist(), second[nested].tolist(), strict=True):
        if stays[stronger]:
            stays[weaker] = False
    return np.array(stays, bool)


def _pairs_within(group: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows i < j of all pairs of the same group, by i; groups ascend."""
    after = np.searchsorted(group, group, "right") - np.arange(len(group)) - 1
    i = np.repeat(np.arange(len(group)), after)
    return i, i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(after) - after, after)
