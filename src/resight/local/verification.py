"""Spatial verification: do tentative correspondences agree on one plane projective map? (survey §4.2.2)

Three steps. Correspondences that agree on a change of scale and orientation are kept (weak geometric consistency,
Jégou, Douze & Schmid, ECCV 2008). A homography is estimated from them by OpenCV's USAC with MAGSAC++ scoring (Barath
et al., CVPR 2020), seeded. Inliers are those whose keypoints the homography also turns and stretches as their own
scale and orientation say, which chance agreements of position seldom pass.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from resight.geometry.homography import jacobians
from resight.local.features import LocalFeatures

# Half-widths of what counts as the same change of orientation (radians) and of scale (octaves). They leave room for
# the perspective of a homography, which turns and stretches different parts of a plane differently.
_TURN_WINDOW, _OCTAVE_WINDOW = np.deg2rad(45.0), 1.0
_TURN_TOLERANCE, _OCTAVE_TOLERANCE = np.deg2rad(30.0), 1.0
_HYPOTHESES = 128
_MINIMUM = 4  # correspondences that define a homography


@dataclass(frozen=True, eq=False)
class Verification:
    """homography: 3×3 float64 or None. inliers: positions, ascending, in the given correspondences."""

    homography: NDArray[np.float64] | None
    inliers: NDArray[np.int64]


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
) -> Verification:
    """Estimate the homography from query to result that tentative correspondences i ↔ j support.

    max_error: inlier threshold in the result's pixels. Fewer than four consistent correspondences, or no model:
    homography None and no inliers.
    """
    nothing = Verification(None, np.empty(0, np.int64))
    kept = np.flatnonzero(consistent(query, result, i, j))
    if len(kept) < _MINIMUM:
        return nothing
    i, j = i[kept], j[kept]
    homography, mask = cv2.findHomography(query.xy[i], result.xy[j], _usac(max_error, seed))
    if homography is None or not np.isfinite(homography).all():
        return nothing
    placed = np.flatnonzero(mask)
    inliers = kept[placed[_patch_agrees(homography, query, result, i[placed], j[placed])]]
    return Verification(np.asarray(homography, np.float64), inliers) if len(inliers) >= _MINIMUM else nothing


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
