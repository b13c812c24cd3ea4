"""Boxes of objects from photos of them that match, for a region proposal network to learn from.

Gordo, Almazán, Revaud & Larlus, ECCV 2016, §3.3 and IJCV 2017: nobody draws boxes. Local features of two photos of one
object are matched and verified; where they agree, there the object is. A photo's box is first the geometric median of
what its pairs say. Then boxes travel: through the map of a pair, a photo's box says where the other's should be, and
each photo takes a step of 0.1 towards the geometric median of what it is told, until nothing moves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resight.geometry.boxes import Box
from resight.geometry.homography import corners, project
from resight.learning.datasets.photos import Photo
from resight.learning.datasets.read import read_photo
from resight.local.features import LocalFeatures
from resight.local.nearest import match_all
from resight.local.rootsift import rootsift
from resight.local.verification import verify

_STEP, _ROUNDS, _STILL = 0.1, 100, 0.1  # of the travelling boxes; still: pixels
_RATIO, _MAX_ERROR = 0.8, 0.01  # Lowe's; of the longest side
_CONTRAST, _EDGE = 0.02, 10.0


@dataclass(frozen=True)
class MatchedBox:
    """Where a photo shows its object.

    box: in pixels of the photo, or of its own box where it has one. size: (width, height) of that, in the same.
    partners: photos that it was verified with.
    """

    box: Box
    size: tuple[int, int]
    partners: int

    @property
    def fractions(self) -> NDArray[np.float32]:
        """(4,) the box as fractions of the sides."""
        sides = np.array([*self.size, *self.size], np.float32)
        return np.asarray(np.array(self.box, np.float32) / sides, np.float32)


@dataclass(frozen=True, eq=False)
class _Verified:
    """Two photos that agree. homography: from one to other, 3×3. inliers: how many. boxes: their extents, (2, 4)."""

    one: int
    other: int
    homography: NDArray[np.float64]
    inliers: int
    boxes: NDArray[np.float64]


def boxes_from_matches(
    photos: Sequence[Photo],
    *,
    max_side: int = 768,
    features: int = 2000,
    partners: int = 20,
    inliers: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, MatchedBox]:
    """By place in ``photos``, the box of the object in each photo that another one of its class is verified with.

    The others are missing: nothing is known of them. max_side: in pixels, of the pictures that are matched. features:
    of a picture at most. partners: photos that each is compared with, drawn by the seed where a class has more.
    inliers: of a homography that verifies. Time grows with photos × partners; memory with the largest class.
    progress: photos done, of all. Raises ResightError where a photo cannot be read.
    """
    found: dict[int, MatchedBox] = {}
    classes: dict[int, list[int]] = {}
    for place, photo in enumerate(photos):
        classes.setdefault(photo.label, []).append(place)
    done = 0
    for label, places in sorted(classes.items()):
        pictures = [read_photo(photos[place], max_side) for place in places]
        described = [
            rootsift(p, max_features=features, contrast_threshold=_CONTRAST, edge_threshold=_EDGE) for p in pictures
        ]
        sizes = [picture.size for picture in pictures]
        rng = np.random.default_rng([seed, label])
        pairs = [
            pair
            for i, j in _drawn(len(places), partners, rng)
            if (pair := _verified(i, j, described, sizes, inliers, seed)) is not None
        ]
        for member, box in _travelled(pairs, sizes).items():
            count = sum(member in (pair.one, pair.other) for pair in pairs)
            x1, y1, x2, y2 = box.tolist()
            found[places[member]] = MatchedBox((x1, y1, x2, y2), sizes[member], count)
        done += len(places)
        progress(done, len(photos))
    return dict(sorted(found.items()))


def geometric_median(points: ArrayLike, weights: ArrayLike, *, rounds: int = 200) -> NDArray[np.float64]:
    """(D,) the point whose weighted distances to N×D points have the least sum (Weiszfeld's algorithm)."""
    x, w = np.asarray(points, np.float64), np.asarray(weights, np.float64)
    if x.ndim != 2 or len(x) == 0 or w.shape != (len(x),) or not (w > 0).all():
        raise ValueError(f"points must be N×D with N weights above 0, not {x.shape} and {w.shape}")
    median: NDArray[np.float64] = np.average(x, axis=0, weights=w)
    for _ in range(rounds):
        away = np.linalg.norm(x - median, axis=1)
        moved: NDArray[np.float64] = np.average(x, axis=0, weights=w / np.maximum(away, 1e-9))
        change = np.linalg.norm(moved - median)
        median = moved
        if change < 1e-9:
            break
    # Towards one of the points, which may be the best place, steps become ever shorter.
    places = np.concatenate([x, median[None]])
    sums = np.linalg.norm(places[:, None] - x, axis=2) @ w
    return np.asarray(places[np.argmin(sums)])


def _drawn(count: int, partners: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Pairs of `count` things, in an order drawn, that give each about so many partners, or all there are."""
    if count <= partners + 1:
        yield from ((i, j) for i in range(count) for j in range(i + 1, count))
        return
    seen: set[tuple[int, int]] = set()
    for _ in range(-(-partners // 2)):  # a cycle through all gives each two
        order = rng.permutation(count)
        for i, j in zip(order.tolist(), np.roll(order, -1).tolist(), strict=True):
            pair = (min(i, j), max(i, j))
            if pair not in seen:
                seen.add(pair)
                yield pair


def _verified(
    i: int,
    j: int,
    described: Sequence[LocalFeatures],
    sizes: Sequence[tuple[int, int]],
    inliers: int,
    seed: int,
) -> _Verified | None:
    one, other = described[i], described[j]
    rows, columns, _ = match_all(_bytes(one), _bytes(other), ratio=_RATIO)
    checked = verify(one, other, rows, columns, max_error=_MAX_ERROR * max(sizes[j]), seed=seed)
    if checked.homography is None or len(checked.inliers) < max(inliers, 4):
        return None
    agreeing = [one.xy[rows[checked.inliers]] + 0.5, other.xy[columns[checked.inliers]] + 0.5]
    boxes = np.array([[*xy.min(axis=0), *xy.max(axis=0)] for xy in agreeing], np.float64)
    if not (boxes[:, 2:] - boxes[:, :2] >= 1).all():
        return None
    return _Verified(i, j, checked.homography, len(checked.inliers), boxes)


def _bytes(features: LocalFeatures) -> NDArray[np.uint8]:
    """RootSIFT's descriptors as they are."""
    return features.descriptors.astype(np.uint8, copy=False)


def _travelled(pairs: Sequence[_Verified], sizes: Sequence[tuple[int, int]]) -> dict[int, NDArray[np.float64]]:
    """Boxes of the things that are in a pair."""
    own: dict[int, list[tuple[NDArray[np.float64], int]]] = {}
    told: dict[int, list[tuple[int, NDArray[np.float64], int]]] = {}  # by whom, through which map, of what weight
    for pair in pairs:
        for side, (member, partner) in enumerate([(pair.one, pair.other), (pair.other, pair.one)]):
            own.setdefault(member, []).append((pair.boxes[side], pair.inliers))
            towards = np.asarray(np.linalg.inv(pair.homography) if side == 0 else pair.homography, np.float64)
            told.setdefault(member, []).append((partner, towards, pair.inliers))
    boxes = {
        member: geometric_median([box for box, _ in said], [weight for _, weight in said])
        for member, said in sorted(own.items())
    }
    for _ in range(_ROUNDS):
        moved = {member: _step(member, boxes, told[member], sizes[member]) for member in boxes}
        change = max((np.abs(moved[member] - boxes[member]).max() for member in boxes), default=0.0)
        boxes = moved
        if change < _STILL:
            break
    return boxes


def _step(
    member: int,
    boxes: Mapping[int, NDArray[np.float64]],
    told: Sequence[tuple[int, NDArray[np.float64], int]],
    size: tuple[int, int],
) -> NDArray[np.float64]:
    """The member's box after a step towards what its partners' boxes say of it."""
    box, said, weights = boxes[member], [], []
    limits = np.array([*size, *size], np.float64)
    for partner, towards, weight in told:
        x1, y1, x2, y2 = boxes[partner].tolist()
        outline = project(towards, corners((x1, y1, x2, y2)) - 0.5) + 0.5
        mapped = np.clip(np.concatenate([outline.min(axis=0), outline.max(axis=0)]), 0, limits)
        if np.isfinite(mapped).all() and (mapped[2:] - mapped[:2] >= 1).all():
            said.append((1 - _STEP) * box + _STEP * mapped)
            weights.append(weight)
    return geometric_median(said, weights) if said else box
