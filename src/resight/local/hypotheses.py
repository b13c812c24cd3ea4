"""Similarities that a few correspondences give, and the best of them refined to all that agree (survey §4.2.2).

Philbin, Chum, Isard, Sivic & Zisserman (CVPR 2007, §3.1): a keypoint has a scale and an orientation, so one
correspondence already gives a similarity. All are tried, where RANSAC would draw samples of several correspondences
that are seldom all true. Keypoints without a scale and an orientation give one a pair of correspondences. The
hypotheses with the largest support are refined by least squares to it (LO-RANSAC: Chum, Matas & Kittler, DAGM 2003),
within tolerances that shrink, since one keypoint's orientation is a rough measure far away from it.

Points are complex numbers, x + iy. A map is (a, b, c): z → az + bz̄ + c; an affinity, or a similarity where b is 0.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resight.local.features import LocalFeatures

Points = NDArray[np.complex128]
Maps = NDArray[np.complex128]

_MOST = 2048  # hypotheses tried
_REFINED = 8
_SLACKS = (3.0, 2.0, 1.0, 1.0, 1.0)  # tolerances of the refinement, in max_error
_BLOCK = 1 << 20  # errors computed at a time
# What no photograph shows: an object more than 64 times as large or as small, or squeezed to an eighth.
_SCALE, _SQUEEZE = 64.0, 8.0
_COLLINEAR = 1e-4  # variance across a line to that along it: below it, nothing is known of the map across the line


def points(xy: NDArray[np.floating]) -> Points:
    """N×2 as N complex numbers."""
    return np.asarray(xy[:, 0] + 1j * xy[:, 1].astype(np.float64), np.complex128)


def from_keypoints(
    query: LocalFeatures, result: LocalFeatures, i: NDArray[np.int64], j: NDArray[np.int64], *, seed: int
) -> Maps:
    """The similarity of each correspondence i ↔ j, from scales and orientations; H×3, 2,048 at most, drawn by seed."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(i))[:_MOST])
    i, j = i[drawn], j[drawn]
    turn = (result.angle[j] - query.angle[i]).astype(np.float64)
    a = result.size[j] / query.size[i] * np.exp(1j * turn)
    return np.stack([a, np.zeros_like(a), points(result.xy[j]) - a * points(query.xy[i])], axis=1)


def from_pairs(x: Points, y: Points, *, seed: int) -> Maps:
    """Similarities that put two points x on their y: of all pairs, or of 2,048 drawn by seed; H×3."""
    one, two = np.triu_indices(len(x), 1) if len(x) * (len(x) - 1) // 2 <= _MOST else _draw(len(x), seed)
    apart = x[one] != x[two]
    one, two = one[apart], two[apart]
    a = (y[two] - y[one]) / (x[two] - x[one])
    maps = np.stack([a, np.zeros_like(a), y[one] - a * x[one]], axis=1)
    return maps[_possible(maps)]


def _draw(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    one = rng.integers(0, n, _MOST)
    return one, (one + rng.integers(1, n, _MOST)) % n


def best(
    hypotheses: Maps,
    x: Points,
    y: Points,
    *,
    max_error: float,
    model: Literal["similarity", "affine"],
    least: int = 1,
) -> NDArray[np.float64] | None:
    """The map with the most points x within max_error of their y, after refinement: 3×3, or None where none is sound.

    hypotheses: H×3. least: with fewer points there is no map, which is soon told where no hypothesis comes near it.
    Ties are broken by the sum of squared errors, then by the hypotheses' order. Points on one spot, or for an affinity
    on one line, determine no map.
    """
    if len(hypotheses) == 0:
        return None
    # Coordinates from the middle of the points: single precision then does for counting.
    middle, target = x.mean(), y.mean()
    a, b, c = hypotheses.T
    moved = np.stack([a, b, c + a * middle + b * np.conj(middle) - target], axis=1)
    x, y = x - middle, y - target
    near = _support(moved, x, y, _SLACKS[0] * max_error)
    leading = np.argsort(-near, kind="stable")[:_REFINED]
    if near[leading[0]] < least:
        return None
    maps = moved[leading]
    for slack in _SLACKS:
        maps = _fit(maps, x, y, slack * max_error, model)
    squared = _squared_errors(maps, x, y)
    agree = squared <= max_error**2
    support = np.where(_possible(maps), agree.sum(axis=1), 0)
    first = np.lexsort((np.where(agree, squared, 0).sum(axis=1), -support))[0]
    if support[first] < least:
        return None
    a, b, c = maps[first]
    c += target - a * middle - b * np.conj(middle)
    return np.vstack([_rows(np.array([a, b, c])), [0, 0, 1]])


def _support(maps: Maps, x: Points, y: Points, max_error: float) -> NDArray[np.int64]:
    """How many points each map puts within max_error of where they belong."""
    rows = _rows(maps).astype(np.float32).transpose(0, 2, 1)
    source = np.stack([x.real, x.imag, np.ones(len(x))]).astype(np.float32)
    target = np.stack([y.real, y.imag]).astype(np.float32)[:, None]
    counts = []
    step = max(1, _BLOCK // max(1, len(x)))
    for start in range(0, len(maps), step):
        difference = rows[:, start : start + step] @ source - target
        counts.append(np.count_nonzero(np.square(difference, out=difference).sum(axis=0) <= max_error**2, axis=1))
    return np.concatenate(counts)


def _rows(maps: Maps) -> NDArray[np.float64]:
    """H×3 maps as 2×3×H real matrices, and one map (3,) as 2×3."""
    a, b, c = maps.T
    return np.array([[(a + b).real, (b - a).imag, c.real], [(a + b).imag, (a - b).real, c.imag]])


def _squared_errors(maps: Maps, x: Points, y: Points) -> NDArray[np.float64]:
    a, b, c = maps.T[..., None]
    error = a * x + b * np.conj(x) + c - y
    return np.asarray(error.real**2 + error.imag**2, np.float64)


def _fit(maps: Maps, x: Points, y: Points, max_error: float, model: str) -> Maps:
    """Each map's least-squares fit to the points within max_error of it, in closed form; 0 where these leave it open.

    With x and y from their means: a = E[x̄y]/E|x|² of a similarity. The normal equations of an affinity are
    a·E|x|² + b·E[x̄²] = E[x̄y] and a·E[x²] + b·E|x|² = E[xy]; E|x|² ± |E[x²]| are twice the variances along and
    across the line nearest the points.
    """
    weight = (_squared_errors(maps, x, y) <= max_error**2).astype(np.float64)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1)
    mx, my, xx, power, xcy, xy = (weight @ np.stack([x, y, x * x, x * x.conj(), x.conj() * y, x * y], axis=1)).T
    power, xx = power.real - np.abs(mx) ** 2, xx - mx * mx
    xcy, xy = xcy - mx.conj() * my, xy - mx * my
    extent = 1e-12 * np.maximum(1, np.abs(mx) ** 2)  # below it, what is left of the variance is rounding
    if model == "similarity":
        known, b = power > extent, np.zeros_like(xcy)
        a = np.divide(xcy, power, out=np.zeros_like(xcy), where=known)
    else:
        known = power - np.abs(xx) > _COLLINEAR * (power + np.abs(xx)) + extent
        determinant = power**2 - np.abs(xx) ** 2
        a = np.divide(power * xcy - xx.conj() * xy, determinant, out=np.zeros_like(xcy), where=known)
        b = np.divide(power * xy - xx * xcy, determinant, out=np.zeros_like(xcy), where=known)
    return np.stack([a, b, my - a * mx - b * mx.conj()], axis=1)


def _possible(maps: Maps) -> NDArray[np.bool_]:
    """Maps that turn nothing over and scale and squeeze as photographs may; they stretch by |a| − |b| to |a| + |b|."""
    small, large = np.abs(maps[:, 0]) - np.abs(maps[:, 1]), np.abs(maps[:, 0]) + np.abs(maps[:, 1])
    return np.asarray((small * _SQUEEZE > large) & (small * _SCALE > 1) & (large < _SCALE), np.bool_)
