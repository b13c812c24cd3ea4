"""Local maxima of convolutional maps, as D2-Net detects them (Dusmanu et al., CVPR 2019; survey §4.2.2).

A cell is a feature if its strongest channel has a maximum there among its 3×3 neighbours, and no edge
runs through it, by the test of SIFT. It is placed between cells where a paraboloid through them peaks, and described
by the map there. Larger scales see the maps of smaller ones added to theirs, and find nothing where those have found
something (code: mihaidusmanu/d2-net, ``lib/model_test.py``, ``lib/pyramid.py``). Any network's map will do.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resight.features.multiscale import l2_normalise
from resight.local.features import LocalFeatures
from resight.local.maps import FeatureMap
from resight.projection.projection import Projection


@dataclass(frozen=True)
class Maxima:
    """A ``Detector``. scales: ascending, for those above to leave alone what those below have found.

    top: features an image. edge: greatest ratio of the curvatures across and along; the published value is 5.
    """

    kind: Literal["maxima"] = "maxima"
    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    top: int = 1000
    edge: float = 5.0
    reduce: Literal["none", "pca", "pca-whitening"] = "none"
    dimensions: int = 128

    @property
    def identity(self) -> str:
        return json.dumps([self.kind, self.scales, self.top, self.edge])

    def detect(self, maps: Sequence[FeatureMap]) -> LocalFeatures:
        """As ``Detector``'s; sizes are the stride, descriptors ℓ2-normalised. A level's scores count 1/level."""
        found: list[tuple[NDArray[np.float32], ...]] = []
        below: NDArray[np.float32] | None = None
        taken = np.zeros((1, 1), bool)
        for level, each in enumerate(maps, start=1):
            values = np.maximum(each.values, 0)
            height, width = values.shape[1:]
            if below is not None:
                values = values + stretched(below, height, width)
            channel, step, peak = peaks(values, self.edge)
            # Nearest neighbours, so that a cell bans all the cells it covers.
            taken = taken[np.arange(height)[:, None] * len(taken) // height, np.arange(width) * taken.shape[1] // width]
            peak &= ~taken
            taken = taken | peak
            row, column = np.nonzero(peak)
            point = np.stack([row, column], axis=1) + step[row, column]
            inside = (np.abs(step[row, column]) < 0.5).all(axis=1) & (point >= 0).all(axis=1)
            inside &= (point <= np.array([height - 1, width - 1])).all(axis=1)
            row, column, point = row[inside], column[inside], point[inside]
            xy = each.xy(point[:, 1], point[:, 0])
            size = np.full(len(xy), np.sqrt(each.pitch.prod()), np.float32)
            score = np.asarray(values[channel[row, column], row, column] / level, np.float32)
            found.append((xy, size, score, between(values, point)))
            below = values
        xy, size, score, descriptors = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(-score, kind="stable")[: self.top]
        unit = l2_normalise(descriptors[order]).astype(np.float32)
        return LocalFeatures(xy[order], size[order], np.zeros(len(order), np.float32), score[order], unit)

    def finish(self, descriptors: NDArray[np.float32], projection: Projection | None) -> NDArray[np.float32]:
        """Reduced and ℓ2-normalised again, if at all."""
        return descriptors if projection is None else projection.transform(descriptors)


def peaks(values: NDArray[np.float32], edge: float) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Of a non-negative C×h×w map, for each cell: its strongest channel (the first of several), and in that channel
    the step (rows, columns) to the paraboloid's peak, and whether it is a local maximum that no edge runs through.

    Returns h×w int64, h×w×2 float64 (0 where there is no peak), h×w bool. Beyond the border are zeros.
    """
    channel = values.argmax(axis=0)
    height, width = channel.shape
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    row, column = np.arange(1, height + 1)[:, None], np.arange(1, width + 1)
    around = np.stack([[padded[channel, row + i, column + j] for j in (-1, 0, 1)] for i in (-1, 0, 1)]).astype(float)
    centre = around[1, 1]
    dii = around[0, 1] - 2 * centre + around[2, 1]
    djj = around[1, 0] - 2 * centre + around[1, 2]
    dij = (around[0, 0] - around[0, 2] - around[2, 0] + around[2, 2]) / 4
    di, dj = (around[2, 1] - around[0, 1]) / 2, (around[1, 2] - around[1, 0]) / 2
    determinant, trace = dii * djj - dij**2, dii + djj
    found = (centre >= around.max(axis=(0, 1))) & (determinant > 0)
    found &= trace**2 * edge <= (edge + 1) ** 2 * determinant
    step = np.stack([dij * dj - djj * di, dij * di - dii * dj], axis=-1)
    return channel, step / np.where(found, determinant, np.inf)[..., None], found


def between(values: NDArray[np.float32], points: NDArray[np.floating]) -> NDArray[np.float32]:
    """N×C: a C×h×w map at N×2 (row, column) inside it, interpolated linearly both ways."""
    low = np.floor(points).astype(np.int64)
    high = np.ceil(points).astype(np.int64)
    part = (points - low).astype(np.float32)
    above = values[:, low[:, 0], low[:, 1]] * (1 - part[:, 1]) + values[:, low[:, 0], high[:, 1]] * part[:, 1]
    beneath = values[:, high[:, 0], low[:, 1]] * (1 - part[:, 1]) + values[:, high[:, 0], high[:, 1]] * part[:, 1]
    return np.asarray(above * (1 - part[:, 0]) + beneath * part[:, 0], np.float32).T


def stretched(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """C×h×w to C×height×width, linearly, corners staying corners (``align_corners`` of torch)."""
    rows, columns = _weights(values.shape[1], height), _weights(values.shape[2], width)
    return np.asarray(rows @ values @ columns.T, np.float32)


def _weights(source: int, target: int) -> NDArray[np.float32]:
    """target×source: what each old entry adds to each new one."""
    place = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
    return np.asarray(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(source))), np.float32)
