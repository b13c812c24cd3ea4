"""Spatial verification of the top of a ranking, and the calibrated probability that an image is a true match."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from resight.geometry.boxes import Box
from resight.geometry.homography import corners, inside, overlap, project
from resight.local.colours import agreement
from resight.local.features import LocalFeatures
from resight.local.matching import WordTable, match_by_words
from resight.local.verification import verify
from resight.recipes.recipe import Calibration, VerifyStage
from resight.search.agreement import first_place
from resight.search.ranking import Evidence, Ranking

# Inliers that say nothing, as any four correspondences agree on some homography. Counting them would let chance
# outweigh the similarity of pictures that have no print to match.
_CHANCE = 4
# What is left of inliers' evidence where colours do not agree at all: a thing may be partly covered or relit.
_COLOURLESS = 0.3
# A further instance needs more than what is left of the first one's matches may give by chance, and a place of its own.
_REPEATED, _SHARED = 10, 0.5


def check(
    query: LocalFeatures,
    table: WordTable,
    box: Box | None,
    candidate: tuple[LocalFeatures, NDArray[np.integer], tuple[int, int]],
    stage: VerifyStage,
    *,
    oriented: bool = True,
) -> tuple[Evidence, int]:
    """The evidence for one candidate (its features, their words, its size), and the distances computed for it.

    oriented: whether keypoints have scales and orientations of their own.

    Further instances, where the stage asks for them, are looked for one by one among the features that lie outside
    those found before, matched anew: the nearest descriptor may have been of another instance.
    """
    found, matched, compared = _instance(query, table, box, candidate, stage, oriented)
    instances, features, words, size = [found], *candidate
    for _ in range(stage.instances - 1):
        if found.inliers < _REPEATED or found.outline is None:
            break
        left = ~inside(found.outline, features.xy)
        left[matched] = False
        features, words = features.part(left), words[left]
        found, matched, count = _instance(query, table, box, (features, words, size), stage, oriented)
        compared += count
        if found.inliers >= _REPEATED and _apart(found, instances):
            instances.append(found)
    best, *others = sorted(instances, key=lambda instance: -instance.inliers)
    return replace(best, others=tuple(others)), compared


def _apart(found: Evidence, instances: list[Evidence]) -> bool:
    """Whether an instance lies elsewhere than the others do."""
    outlines = [instance.outline for instance in instances if instance.outline is not None]
    return found.outline is not None and all(overlap(found.outline, outline) <= _SHARED for outline in outlines)


def _instance(
    query: LocalFeatures,
    table: WordTable,
    box: Box | None,
    candidate: tuple[LocalFeatures, NDArray[np.integer], tuple[int, int]],
    stage: VerifyStage,
    oriented: bool,
) -> tuple[Evidence, NDArray[np.int64], int]:
    """The evidence for the most evident instance, the candidate's rows it matches, and the distances computed."""
    features, words, size = candidate
    i, j, compared = match_by_words(table, features.descriptors, words, stage.max_distance * features.unit)
    found = verify(
        query,
        features,
        i,
        j,
        max_error=stage.max_error * max(size),
        seed=stage.seed,
        model=stage.model,
        oriented=oriented,
    )
    agreed_i, agreed_j = i[found.inliers], j[found.inliers]
    outline = None
    if found.homography is not None:
        outline = project(found.homography, corners(box or _extent(query, agreed_i))).astype(np.float32)
        if not np.isfinite(outline).all():
            outline = None
    alike = 1.0
    if found.homography is not None and len(found.inliers) > _CHANCE and query.colours and features.colours:
        alike = agreement(query.colours, features.colours, found.homography, query.xy[agreed_i])
    evidence = Evidence(
        inliers=len(found.inliers),
        matches=len(i),
        homography=found.homography,
        outline=outline,
        box=None if found.homography is None else _bounds(outline, features.xy[agreed_j], size),
        query_xy=query.xy[agreed_i],
        result_xy=features.xy[agreed_j],
        agreement=alike,
    )
    return evidence, agreed_j, compared


def support(evidence: Evidence) -> float:
    """Inliers, as many as those found count for where colours agree only so far; 0 where nothing was found.

    Agreement a makes ln(1 + n − c), what n inliers count for beyond the c that say nothing, 0.3 + 0.7 a times as much.
    """
    beyond, share = evidence.inliers - _CHANCE, _COLOURLESS + (1 - _COLOURLESS) * evidence.agreement
    return _CHANCE + (1 + beyond) ** share - 1 if beyond > 0 else float(evidence.inliers)


def log_odds(
    calibration: Calibration, inliers: NDArray[np.integer] | NDArray[np.floating], similarity: NDArray[np.floating]
) -> NDArray[np.float64]:
    """ln p/(1 − p) of a true match; the formula is in ``Calibration``. inliers: of each, by ``support``."""
    counted = np.log1p(np.maximum(0, inliers - _CHANCE))
    odds = calibration.intercept + calibration.inliers * counted + calibration.similarity * similarity
    return np.asarray(odds, np.float64)


def probability(odds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The logistic function, without overflow."""
    return (0.5 * (1 + np.tanh(0.5 * odds))).astype(np.float32)


def calibrated_ranking(
    calibration: Calibration,
    ids: NDArray[np.int64],
    inliers: NDArray[np.int64] | NDArray[np.float64],
    similarity: NDArray[np.float32],
    evidence: Mapping[int, Evidence],
    top: int | None = None,
    first: NDArray[np.int64] | None = None,
) -> Ranking:
    """The first `top` of N images by the probability of a true match; ties by image id.

    inliers: by ``support``. evidence: by position in `ids`. first: positions in `ids` in the order of the filter. An
    image without inliers is never accepted, however similar: it would be a match that nobody can be shown the reason
    for.
    """
    odds = log_odds(calibration, inliers, similarity)
    below = np.log(calibration.accept / (1 - calibration.accept)) - 1e-3
    shown = np.where(inliers > 0, odds, np.minimum(odds, below))
    order = np.lexsort((ids, -odds, -shown))[:top]
    found = tuple(evidence.get(int(position)) for position in order)
    place = None if first is None else first_place(probability(shown[first]) >= calibration.accept)
    return Ranking(ids[order], probability(shown[order]), found, calibration.accept, calibrated=True, place=place)


def _extent(query: LocalFeatures, rows: NDArray[np.int64]) -> Box:
    """What the matched keypoints cover in the query: the object, where the user drew no box."""
    low = (query.xy[rows] - query.size[rows, None] / 2).min(axis=0)
    high = (query.xy[rows] + query.size[rows, None] / 2).max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _bounds(outline: NDArray[np.float32] | None, matched: NDArray[np.float32], size: tuple[int, int]) -> Box:
    """The outline's bounding box inside the image; the matched points' where the outline leaves it or is none."""
    for points in (outline, matched):
        if points is not None:
            x1, y1 = np.clip(points.min(axis=0), 0, size)
            x2, y2 = np.clip(points.max(axis=0), 0, size)
            if x2 - x1 >= 1 and y2 - y1 >= 1:
                return float(x1), float(y1), float(x2), float(y2)
    return 0.0, 0.0, float(size[0]), float(size[1])
