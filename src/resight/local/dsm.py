"""DSM: local features and visual words that emerge in activations (Siméoni, Avrithis & Chum, CVPR 2019; survey §4.2.2).

No detector and no descriptors: each channel of a global descriptor's last map is looked at as a picture, its maximally
stable extremal regions (Matas et al., BMVC 2002) are the features, each an ellipse, and the channel is the visual
word. Two images are compared by how many features of the same channels one affine map aligns, of the hypotheses that
single correspondences give (Philbin et al., CVPR 2007). Parameters are those of osimeoni/DSM, ``examples/test_dsm.m``.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.geometry.regions import nms
from resight.local.features import LocalFeatures
from resight.local.maps import FeatureMap
from resight.local.stable_regions import stable_regions
from resight.projection.projection import Projection

PYRAMID = (1.0, 2**-0.5, 0.5)
"""The published scales, of images 1024 pixels long."""

_LEVELS = 255.0  # to which a map's largest activation is quantised
_STEADY = 0.6  # share of the activations above 0 that Δ, the levels over which a region must be stable, exceeds
_GREATEST_DELTA = 12
_BLOCK = 2**15  # pixels of the channels that are looked at together
_PACKED = 5  # numbers that ``packed`` writes as a descriptor


@dataclass(frozen=True, eq=False)
class ChannelFeatures:
    """N ellipses, by descending score.

    xy: N×2 float32, centres in pixels of the upright original. shape: N×2×2 float32, lower triangular: the unit circle
        to the ellipse about its centre, which leaves the vertical vertical. channel: N int32. score: N float32, the
        largest activation in the ellipse. pitch: N float32, distance of the map's cells in pixels of the original.
    """

    xy: NDArray[np.float32]
    shape: NDArray[np.float32]
    channel: NDArray[np.int32]
    score: NDArray[np.float32]
    pitch: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.xy)
        wanted = {"xy": (n, 2), "shape": (n, 2, 2), "channel": (n,), "score": (n,), "pitch": (n,)}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape}, not {getattr(self, name).shape}")

    def __len__(self) -> int:
        return len(self.xy)

    def __getitem__(self, kept: NDArray[np.integer] | NDArray[np.bool_]) -> "ChannelFeatures":
        return ChannelFeatures(*(getattr(self, field.name)[kept] for field in fields(self)))

    def packed(self) -> LocalFeatures:
        """As the value that collections store: N×5 descriptors of channel, shape and pitch; exact."""
        a, c = self.shape[:, 0, 0], self.shape[:, 1, 1]
        columns = (self.channel.astype(np.float32), a, self.shape[:, 1, 0], c, self.pitch)
        return LocalFeatures(self.xy, 2 * np.sqrt(a * c), np.zeros_like(a), self.score, np.stack(columns, axis=1))

    @classmethod
    def unpacked(cls, features: LocalFeatures) -> "ChannelFeatures":
        """What ``packed`` was given. Raises ValueError for local features of another kind."""
        if features.descriptors.dtype != np.float32 or features.descriptors.shape[1] != _PACKED:
            found = f"{features.descriptors.shape} {features.descriptors.dtype}"
            raise ValueError(f"these are no packed DSM features: descriptors are {found}")
        table = features.descriptors.astype(np.float32, copy=False)
        shape = np.zeros((len(table), 2, 2), np.float32)
        shape[:, 0, 0], shape[:, 1, 0], shape[:, 1, 1] = table[:, 1], table[:, 2], table[:, 3]
        return cls(features.xy, shape, table[:, 0].astype(np.int32), features.score, table[:, 4])


def channel_features(
    maps: Sequence[FeatureMap],
    *,
    upsample: int = 2,
    clutter: int = 36,
    overlap: float = 1.0,
    per_channel: int = 20,
    top: int = 2048,
) -> ChannelFeatures:
    """The ellipses of an image, of the maps of all scales.

    upsample: by what maps are enlarged before regions are looked for, linearly. The published networks are made finer
        themselves, by dilation.
    clutter: a channel with more regions than this says nothing. per_channel: of one channel at one scale.
    overlap: of the boxes of a scale's ellipses, whatever their channels, above which the weaker goes. Published are
        1 (all stay) with 20 a channel for queries, and 0.2 with 10 for the collection's images.
    top: of an image; published are 2048 for ResNets and 512 for VGG. Ties by scale, channel, stability.

    Regions are of high activation; the published detector, VLFeat's, can find holes too. Activations are quantised
    relative to the map's largest, where the publication rounds them, which suits VGG's large ones only.
    """
    found = [_of_scale(each, upsample, clutter) for each in maps]
    thinned = [features[_apart(features, overlap)] for features in found]
    chosen = [features[_first_of_channels(features, per_channel)] for features in thinned]
    joined = [np.concatenate([getattr(f, field.name) for f in chosen]) for field in fields(ChannelFeatures)]
    everything = ChannelFeatures(*joined)
    return everything[np.argsort(-everything.score, kind="stable")[:top]]


@dataclass(frozen=True)
class Dsm:
    """A ``Detector`` (``resight.local.maps``) whose features are ``ChannelFeatures``, packed, which nothing reduces."""

    kind: Literal["dsm"] = "dsm"
    scales: tuple[float, ...] = PYRAMID
    overlap: float = 0.2
    per_channel: int = 10
    top: int = 2048
    reduce: Literal["none"] = "none"
    dimensions: int = _PACKED

    @property
    def identity(self) -> str:
        return json.dumps([self.kind, self.scales, self.overlap, self.per_channel, self.top])

    def detect(self, maps: Sequence[FeatureMap]) -> LocalFeatures:
        """As ``Detector``'s."""
        found = channel_features(maps, overlap=self.overlap, per_channel=self.per_channel, top=self.top)
        return found.packed()

    def finish(self, descriptors: NDArray[np.float32], projection: Projection | None) -> NDArray[np.float32]:
        """As they are."""
        return descriptors


@dataclass(frozen=True, eq=False)
class ChannelMatch:
    """affine: 2×3 float64 from query to result, or None where nothing agrees.

    query, result: rows of the features that it aligns, each used once, by error; their number is DSM's similarity.
    """

    affine: NDArray[np.float64] | None
    query: NDArray[np.int64]
    result: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.query)


def match_channels(
    query: ChannelFeatures,
    result: ChannelFeatures,
    *,
    max_error: float = 2.0,
    max_scale_change: float = 3.0,
    hypotheses: int = 1000,
) -> ChannelMatch:
    """The affine map that aligns most features of the same channels, among all pairs of scales.

    Each correspondence is a hypothesis: the map between its ellipses that keeps verticals vertical. Its inliers lie
    within max_error cells of each other, measured in both images. The best hypothesis of a pair of scales is fitted
    to its inliers by least squares where it keeps as many.
    max_scale_change: of a hypothesis, in length, either way; beyond it whole images shrink into a point.
    hypotheses: of a pair of scales, those of the strongest features first; there is no chance in it. Ties go to
        the first pair of scales, the finest, and to the stronger features.
    """
    best = ChannelMatch(None, np.empty(0, np.int64), np.empty(0, np.int64))
    for i in _scales(query):
        for j in _scales(result):
            one = _match(query[i], result[j], max_error, max_scale_change, hypotheses)
            if len(one) > len(best):
                best = ChannelMatch(one.affine, i[one.query], j[one.result])
    return best


def _of_scale(each: FeatureMap, upsample: int, clutter: int) -> ChannelFeatures:
    values = np.maximum(each.values, 0)
    factor = _LEVELS / (float(values.max()) or 1.0)
    positive = np.round(values[values > 0] * factor)
    delta = int(np.clip(np.round(np.quantile(positive, _STEADY)), 1, _GREATEST_DELTA)) if len(positive) else 1
    size = values.shape[2] * upsample, values.shape[1] * upsample
    seen = np.flatnonzero(values.max(axis=(1, 2)) * factor >= 0.5)  # the others are quantised to nothing
    step = max(1, _BLOCK // (size[0] * size[1]))
    blocks = [seen[i : i + step] for i in range(0, max(1, len(seen)), step)]
    found = [_of_channels(values[block], size, factor, delta, clutter) for block in blocks]
    place, centre, spread, score = map(np.concatenate, zip(*found, strict=True))
    channel = seen[place + np.repeat(step * np.arange(len(blocks)), [len(block[0]) for block in found])]
    centre = (centre + 0.5) / upsample - 0.5
    pitch = each.pitch / upsample  # of the enlarged map's pixels
    return ChannelFeatures(
        each.xy(centre[:, 0], centre[:, 1]),
        np.linalg.cholesky(4 * spread * np.outer(pitch, pitch)).astype(np.float32),
        channel.astype(np.int32),
        score,
        np.full(len(channel), np.sqrt(each.pitch.prod()), np.float32),
    )


def _of_channels(
    values: NDArray[np.float32], size: tuple[int, int], factor: float, delta: int, clutter: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    """Of some channels, enlarged to (width, height): each region's channel, centre, spread and largest activation."""
    large = np.empty((len(values), *size[::-1]), np.float32)
    for channel, enlarged in zip(values, large, strict=True):
        cv2.resize(channel, size, dst=enlarged, interpolation=cv2.INTER_LINEAR)
    found = stable_regions(np.round(large * factor).astype(np.uint8), delta, clutter)
    count = len(found.picture)

    def mean(of: NDArray[np.number]) -> NDArray[np.float64]:
        return np.bincount(found.region, of, count) / area

    area = np.bincount(found.region, minlength=count)
    centre = np.stack([mean(found.x), mean(found.y)], axis=-1)
    x, y = found.x - centre[found.region, 0], found.y - centre[found.region, 1]
    across = mean(x * y)
    # A pixel is a square, not a point, and spreads by 1/12; an ellipse by a quarter of its radii squared.
    spread = np.stack([mean(x * x), across, across, mean(y * y)], axis=-1).reshape(-1, 2, 2) + np.eye(2) / 12
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, found.region, large[found.picture[found.region], found.y, found.x])
    return found.picture, centre, spread, peak


def _apart(features: ChannelFeatures, overlap: float) -> NDArray[np.int64]:
    if overlap >= 1:
        return np.arange(len(features))
    half = np.linalg.norm(features.shape, axis=2)  # an ellipse A·circle reaches ‖row of A‖ along each axis
    return np.sort(nms(np.concatenate([features.xy - half, features.xy + half], axis=1), features.score, overlap))


def _first_of_channels(features: ChannelFeatures, most: int) -> NDArray[np.int64]:
    order = np.lexsort((-features.score, features.channel))
    _, first, counts = np.unique(features.channel[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, counts)
    return np.sort(order[place < most])


def _scales(features: ChannelFeatures) -> Iterator[NDArray[np.int64]]:
    """Rows of each scale, the finest first."""
    for pitch in np.unique(features.pitch):
        yield np.flatnonzero(features.pitch == pitch)


def _pairs(query: ChannelFeatures, result: ChannelFeatures) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of all features of the same channels, by the query's and then the result's."""
    by_channel = np.argsort(result.channel, kind="stable")
    channels = result.channel[by_channel]
    first = np.searchsorted(channels, query.channel, "left")
    counts = np.searchsorted(channels, query.channel, "right") - first
    i = np.repeat(np.arange(len(query)), counts)
    return i, by_channel[np.arange(len(i)) + np.repeat(first - np.cumsum(counts) + counts, counts)]


def _match(
    query: ChannelFeatures, result: ChannelFeatures, max_error: float, max_scale_change: float, hypotheses: int
) -> ChannelMatch:
    """``match_channels`` for features of one scale each."""
    i, j = _pairs(query, result)
    strongest = np.argsort(-(query.score[i] * result.score[j]), kind="stable")[:hypotheses]
    linear = result.shape[j[strongest]].astype(float) @ np.linalg.inv(query.shape[i[strongest]].astype(float))
    change = np.sqrt(np.linalg.det(linear))
    possible = (change <= max_scale_change) & (change >= 1 / max_scale_change)
    strongest, linear = strongest[possible], linear[possible]
    if len(strongest) == 0:
        return ChannelMatch(None, np.empty(0, np.int64), np.empty(0, np.int64))
    x, y = query.xy[i].astype(float), result.xy[j].astype(float)
    limits = max_error * float(query.pitch[0]), max_error * float(result.pitch[0])
    maps = np.concatenate([linear, (y[strongest] - (linear @ x[strongest, :, None])[..., 0])[..., None]], axis=2)
    of_feature = np.flatnonzero(np.diff(i, prepend=-1))
    support = [np.logical_or.reduceat(_errors(each, x, y, limits) <= 1, of_feature).sum() for each in maps]
    affine = maps[int(np.argmax(support))]
    chosen = _one_to_one(i, j, _errors(affine, x, y, limits))
    fitted, _, rank, _ = np.linalg.lstsq(np.column_stack([x[chosen], np.ones(len(chosen))]), y[chosen], rcond=None)
    if rank == 3 and np.linalg.det(fitted[:2]) > 0:
        again = _one_to_one(i, j, _errors(fitted.T, x, y, limits))
        if len(again) >= len(chosen):
            affine, chosen = fitted.T, again
    return ChannelMatch(affine, i[chosen], j[chosen])


def _errors(
    affine: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], limits: tuple[float, float]
) -> NDArray[np.float64]:
    """How far an affine map misses, in the query and in the result, the larger of both as a part of what is allowed."""
    missed = x @ affine[:, :2].T + affine[:, 2] - y
    back = missed @ np.linalg.inv(affine[:, :2]).T
    return np.asarray(np.maximum(np.linalg.norm(back, axis=1) / limits[0], np.linalg.norm(missed, axis=1) / limits[1]))


def _one_to_one(i: NDArray[np.int64], j: NDArray[np.int64], errors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Correspondences of error at most 1, by error, each feature in the first of its own only."""
    chosen: list[int] = []
    used_i, used_j = set[int](), set[int]()
    for place in np.argsort(errors, kind="stable")[: int((errors <= 1).sum())].tolist():
        if int(i[place]) not in used_i and int(j[place]) not in used_j:
            used_i.add(int(i[place]))
            used_j.add(int(j[place]))
            chosen.append(place)
    return np.array(chosen, np.int64)
