"""Spatial verification: do tentative correspondences agree on one plane projective map? (survey §4.2.2)

Three steps. Correspondences that agree on a change of scale and orientation are kept (weak geometric consistency,
Jégou, Douze & Schmid, ECCV 2008). A map is estimated from them: a homography by OpenCV's USAC with MAGSAC++ scoring
(Barath et al., CVPR 2020), seeded, or a similarity or affinity by ``hypotheses``. Inliers are those whose keypoints
the map also turns and stretches as their own scale and orientation say, which chance agreements of position seldom
pass. Keypoints that have no scale and orientation of their own skip the first step and the last.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.geometry.homography import jacobians, project
from resight.local.features import LocalFeatures
from resight.local.hypotheses import best, from_keypoints, from_pairs, points

Model = Literal["homography", "similarity", "affine"]

# Half-widths of what counts as the same change of orientation (radians) and of scale (octaves). They leave room for
# the perspective of a homography, which turns and stretches different parts of a plane differently.
_TURN_WINDOW, _OCTAVE_WINDOW = np.deg2rad(45.0), 1.0
_TURN_TOLERANCE, _OCTAVE_TOLERANCE = np.deg2rad(30.0), 1.0
_HYPOTHESES = 128
_MINIMUM = 4  # correspondences that define a homography
# USAC draws too few samples where less than a fifth of the correspondences is true. The affinity with the most support
# within `_NEAR` max_error then says which to draw from. What that leads to counts if it has at least `_CERTAIN` inliers
# and twice those of USAC alone: so thorough a search always finds a few more, and calibrations know nothing of them.
_SPARSE, _NEAR, _CERTAIN = 5, 3.0, 10


@dataclass(frozen=True, eq=False)
class Verification:
    """homography: 3×3 float64 or None. inliers: positions, ascending, in the given correspondences."""

    homography: NDArray[np.float64] | None
    inliers: NDArray[np.int64]


_NOTHING = Verification(None, np.empty(0, np.int64))


def _turned(angle: NDArray[np.floating]) -> NDArray[np.floating]:
    """Angles brought to [−π, π)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def consistent(
    query: LocalFeatures, result: LocalFeatures, i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which correspondences share the change of scale and orientation that most others agree with; (len(i),) bool.

    The change is that of one of the first `_HYPOTHESES` correspondences; ``match_by_words`` gives the nearest first.
    """
    if len(i) == 0:
        return np.zeros(0, bool)
    turn = result.angle[j] - query.angle[i]
    octaves = np.log2(result.size[j] / query.size[i])
    turn_gap = np.abs(_turned(turn[:_HYPOTHESES, None] - turn))
    octave_gap = np.abs(octaves[:_HYPOTHESES, None] - octaves)
    votes = (turn_gap < _TURN_WINDOW / 1.5) & (octave_gap < _OCTAVE_WINDOW / 1.5)
    peak = int(votes.sum(axis=1).argmax())
    agree: NDArray[np.bool_] = (turn_gap[peak] < _TURN_WINDOW) & (octave_gap[peak] < _OCTAVE_WINDOW)
    return agree


def _patch_agrees(
    homography: NDArray[np.float64],
    query: LocalFeatures,
    result: LocalFeatures,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
) -> NDArray[np.bool_]:
    jacobian = jacobians(homography, query.xy[i].astype(float))
    area = np.linalg.det(jacobian)
    direction = np.column_stack([np.cos(query.angle[i]), np.sin(query.angle[i])])
    mapped = np.einsum("nij,nj->ni", jacobian, direction)
    turn = _turned(np.arctan2(mapped[:, 1], mapped[:, 0]) - result.angle[j])
    stretch = 0.5 * np.log2(np.maximum(area, 1e-12)) + np.log2(query.size[i] / result.size[j])
    agrees: NDArray[np.bool_] = (area > 0) & (np.abs(turn) < _TURN_TOLERANCE) & (np.abs(stretch) < _OCTAVE_TOLERANCE)
    return agrees


def verify(
    query: LocalFeatures,
    result: LocalFeatures,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    *,
    max_error: float,
    seed: int,
    model: Model = "homography",
    oriented: bool = True,
) -> Verification:
    """Estimate the map from query to result that tentative correspondences i ↔ j support.

    max_error: inlier threshold in the result's pixels. model: of the map; all are given as homographies. oriented:
    whether the keypoints have scales and orientations of their own. Fewer than four consistent correspondences, or no
    model: homography None and no inliers.
    """
    kept = np.flatnonzero(consistent(query, result, i, j)) if oriented else np.arange(len(i))
    pairs = _Pairs(query, result, i[kept], j[kept], max_error, seed, oriented)
    if len(kept) < _MINIMUM:
        found = _NOTHING
    elif model == "homography":
        found = pairs.projective()
    else:
        affinity = pairs.affinity(model, max_error, _MINIMUM)
        found = pairs.accept(affinity, pairs.within(affinity, max_error))
    return Verification(found.homography, kept[found.inliers])


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Correspondences i ↔ j and how they are judged; rows below are positions among them."""

    query: LocalFeatures
    result: LocalFeatures
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    max_error: float
    seed: int
    oriented: bool

    def projective(self) -> Verification:
        """The homography of USAC, or where that finds little, of USAC near the best affinity."""
        everything = np.arange(len(self.i))
        found = self.accept(*self.robust(everything))
        if len(self.i) >= _CERTAIN and len(found.inliers) < max(_CERTAIN, len(self.i) // _SPARSE):
            guided = self.guided()
            if len(guided.inliers) >= max(_CERTAIN, 2 * len(found.inliers)):
                return guided
        return found

    def robust(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64] | None, NDArray[np.int64]]:
        """A homography by USAC, and which of the rows it puts in place."""
        xy, target = self.query.xy[self.i[rows]], self.result.xy[self.j[rows]]
        homography, mask = cv2.findHomography(xy, target, _usac(self.max_error, self.seed))
        if homography is None or not np.isfinite(homography).all():
            return None, rows[:0]
        return np.asarray(homography, np.float64), rows[np.flatnonzero(mask)]

    def guided(self) -> Verification:
        """By USAC near the best affinity, and again near the homography that it finds there."""
        near, placed = self.affinity("affine", _NEAR * self.max_error, _CERTAIN), np.empty(0, np.int64)
        for error in (_NEAR * self.max_error, 2 * self.max_error):
            rows = self.within(near, error)
            if len(rows) < _MINIMUM:
                return _NOTHING
            near, placed = self.robust(rows)
        return self.accept(near, placed)

    def affinity(
        self, model: Literal["similarity", "affine"], max_error: float, least: int
    ) -> NDArray[np.float64] | None:
        """The similarity or affinity that puts most rows, and so many at least, within max_error; as a homography."""
        x, y = points(self.query.xy[self.i]), points(self.result.xy[self.j])
        if self.oriented:
            hypotheses = from_keypoints(self.query, self.result, self.i, self.j, seed=self.seed)
        else:
            hypotheses = from_pairs(x, y, seed=self.seed)
        return best(hypotheses, x, y, max_error=max_error, model=model, least=least)

    def within(self, homography: NDArray[np.float64] | None, max_error: float) -> NDArray[np.int64]:
        """The rows that a homography puts within max_error of where they belong."""
        if homography is None:
            return np.empty(0, np.int64)
        error = project(homography, self.query.xy[self.i]) - self.result.xy[self.j]
        return np.flatnonzero(np.einsum("nd,nd->n", error, error) <= max_error**2)

    def accept(self, homography: NDArray[np.float64] | None, placed: NDArray[np.int64]) -> Verification:
        """What is left of the rows that a homography puts in place when their patches must agree too."""
        if homography is None:
            return _NOTHING
        if self.oriented:
            i, j = self.i[placed], self.j[placed]
            placed = placed[_patch_agrees(homography, self.query, self.result, i, j)]
        return Verification(homography, placed) if len(placed) >= _MINIMUM else _NOTHING


def _usac(threshold: float, seed: int) -> "cv2.UsacParams":
    parameters = cv2.UsacParams()
    parameters.sampler = cv2.SAMPLING_UNIFORM
    parameters.score = cv2.SCORE_METHOD_MAGSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_SIGMA
    parameters.loIterations = 10
    parameters.loSampleSize = 50
    parameters.final_polisher = cv2.MAGSAC
    parameters.final_polisher_iterations = 3
    parameters.confidence = 0.999
    parameters.maxIterations = 2000
    parameters.threshold = threshold
    parameters.randomGeneratorState = seed
    parameters.isParallel = False
    return parameters
