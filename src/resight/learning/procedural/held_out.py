"""How well pairs that were not learned from are matched, whose correspondences are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from resight.learning.procedural.scenes import Scenes
from resight.local.compact import likelihood, read
from resight.networks.compact import CELL, CompactMaps

Features = tuple[NDArray[np.float32], NDArray[np.float32]]
"""N×2 keypoints (x, y) in pixels, and N×D descriptors of which a greater product is nearer."""


@dataclass(frozen=True)
class Matching:
    """precision: share of the mutual nearest that are right. score: right ones for each keypoint that the other view
    sees; both as means over pairs and, of the score, both views. repeatability: share of such keypoints near which the
    other view has one.
    """

    precision: float
    score: float
    repeatability: float


def match_pairs(scenes: Scenes, features: Sequence[Features], threshold: float = 3.0) -> Matching:
    """How features match: those of both views of the first subject, then the next's. threshold: pixels that are near.

    The matching score of Mikolajczyk & Schmid (TPAMI 2005) and the mean matching accuracy of D2-Net (Dusmanu et al.,
    CVPR 2019), with the pairs' own geometry in place of a homography. A match of a keypoint that the other view does
    not see is wrong.
    """
    found = []
    pairs = zip(features[::2], features[1::2], scenes.warp.numpy(), scenes.visible.numpy(), strict=True)
    for (a, x), (b, y), warp, visible in pairs:
        seen_a, there_a = _carried(a, warp[0], visible[0])
        seen_b, there_b = _carried(b, warp[1], visible[1])
        if not (seen_a.any() and seen_b.any()):  # then nothing is right, whatever was to be found
            found.append((0.0, 0.0, 0.0))
            continue
        apart = np.linalg.norm(there_a[:, None] - b[None], axis=2)
        back = np.linalg.norm(there_b[:, None] - a[None], axis=2)
        cosine = x @ y.T
        best, other = cosine.argmax(axis=1), cosine.argmax(axis=0)
        rows = np.flatnonzero(other[best] == np.arange(len(best)))
        right = seen_a[rows] & (apart[rows, best[rows]] <= threshold)
        seen = (seen_a.sum() + seen_b.sum()) / 2
        near = (apart[seen_a].min(axis=1) <= threshold).mean() + (back[seen_b].min(axis=1) <= threshold).mean()
        found.append((right.mean(), min(1.0, right.sum() / seen), near / 2))
    precision, score, repeatability = np.mean(found, axis=0) if found else (0.0, 0.0, 0.0)
    return Matching(float(precision), float(score), float(repeatability))


def _carried(
    xy: NDArray[np.float32], warp: NDArray[np.float32], visible: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Whether the other view sees a keypoint, and where: as the pixel it is in, moved by its place in that pixel."""
    height, width = visible.shape
    pixel = np.clip(np.rint(xy), 0, (width - 1, height - 1)).astype(np.int64)
    column, row = pixel.T
    return visible[row, column], warp[row, column] + (xy - pixel)


def strongest(maps: CompactMaps, place: int, most: int) -> Features:
    """The ``most`` likeliest keypoints of a batch's picture, whole pixels, and their descriptors read bilinearly.

    A keypoint is at least as likely as the pixels within 2 of it, by its likelihood times its cell's reliability: in
    whole pixels and on one scale what ``CompactKeypoints`` finds.
    """
    keypoints, relied, local = (x[place][None].float().cpu() for x in (maps.keypoints, maps.reliability, maps.local))
    heat = likelihood(keypoints) * F.interpolate(relied.sigmoid(), scale_factor=CELL)[:, 0]
    peak = heat == F.max_pool2d(heat, 5, stride=1, padding=2)
    score = torch.where(peak, heat, 0.0)[0]
    width = score.shape[1]
    value, pixel = score.flatten().topk(min(most, score.numel()))
    pixel = pixel[value > 0]
    xy = torch.stack([pixel % width, pixel // width], dim=1).float().numpy()
    return xy, F.normalize(read(local, xy), dim=1).numpy()


def recall_at_1(x: NDArray[np.float32]) -> float:
    """Share of pictures whose nearest other is the other view: x is 2B×D of unit length, view 0 of all, then view 1."""
    cosine = x @ x.T
    np.fill_diagonal(cosine, -np.inf)
    count = len(x) // 2
    return float(np.mean(cosine.argmax(axis=1) == (np.arange(2 * count) + count) % (2 * count)))
