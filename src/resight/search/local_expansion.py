"""Query expansion by verified local features (survey §4.2.2): a query learns what its first results saw of its object.

Chum, Philbin, Sivic, Isard & Zisserman, "Total Recall" (ICCV 2007): features of verified results, inside the query's
region, are mapped into the query's frame by the inverse of the map that verified them, and the query is asked again
with all of them, once or repeatedly (their average and recursive average expansion). They average bags of words; here,
where verification wants the features themselves, they are joined, and a feature that the query has already, of the
same word at the same place, is left out. Tolias & Jégou (Pattern Recognition 2014) instead merge features of one word.
Ours are the cap on what joins at one place, and that no result is verified by features of its own: every result that
joined the query would confirm itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resight.geometry.homography import inside, jacobians, project
from resight.local.features import LocalFeatures
from resight.local.matching import WordTable
from resight.recipes.recipe import Calibration, ExpansionStage
from resight.search.ranking import Evidence
from resight.search.verify import log_odds, support

OWN = -1
_SAME = 0.25  # of a feature's diameter: a feature of the same word so near is the same one, seen again
_CROWD, _PLACE = 4, 0.5  # features that may join in one place of their octave, and its side in their diameters


@dataclass(frozen=True, eq=False)
class ExpandedQuery:
    """A query's local features with those that joined it, its own first.

    words: N×k int64, the nearest words of each. source: N int64, positions of the images that the features are of,
    ``OWN`` for the query's own.
    """

    features: LocalFeatures
    words: NDArray[np.int64]
    source: NDArray[np.int64]

    @classmethod
    def of(cls, features: LocalFeatures, words: NDArray[np.int64]) -> "ExpandedQuery":
        """A query that nothing has joined."""
        return cls(features, words, np.full(len(features), OWN))

    def words_without(self, position: int) -> NDArray[np.int64]:
        """N×k: the words, −1 for features of the image at a position, so that it does not meet itself."""
        return np.where(self.source[:, None] == position, -1, self.words)

    def join(self, found: LocalFeatures, words: NDArray[np.int64], position: int) -> "ExpandedQuery":
        """With features of the image at a position, in the query's frame, but for those that say nothing new.

        words: M×k int64 nearest words of the M features found. Returns itself where none is new.
        """
        new = ~_seen(self, found, words[:, 0])
        new[new] = _uncrowded(self, found, new)
        if not new.any():
            return self
        return ExpandedQuery(
            _concatenated(self.features, found.part(new)),
            np.concatenate([self.words, words[new]]),
            np.concatenate([self.source, np.full(int(new.sum()), position)]),
        )


def confirmed(
    stage: ExpansionStage,
    calibration: Calibration,
    evidence: Mapping[int, Evidence],
    similarity: NDArray[np.float32],
) -> list[int]:
    """Positions of the results certain enough to join the query, most probable first; ties by position.

    evidence: by position. similarity: (N,) by the filter. A result without an outline is none of them.
    """
    positions = np.array([p for p, e in sorted(evidence.items()) if e.outline is not None], np.int64)
    inliers = np.array([support(evidence[p]) for p in positions.tolist()])
    odds = log_odds(calibration, inliers, similarity[positions])
    sure = (inliers >= stage.inliers) & (odds >= np.log(stage.accept / (1 - stage.accept)))
    order = np.argsort(-odds[sure], kind="stable")
    return [int(p) for p in positions[sure][order]]


def brought_back(features: LocalFeatures, evidence: Evidence) -> LocalFeatures:
    """A result's features inside the found outline, in the query's frame; none where the map has no inverse.

    Positions go through the inverse of the homography, and sizes and angles through its derivative there: a diameter d
    becomes d·√|det J|, and the direction (cos a, sin a) that of J·(cos a, sin a). What the map turns over is left out.
    """
    none = np.zeros(len(features), bool)
    if evidence.homography is None or evidence.outline is None or abs(np.linalg.det(evidence.homography)) < 1e-12:
        return features.part(none)
    features = features.part(inside(evidence.outline, features.xy))
    inverse = np.asarray(np.linalg.inv(evidence.homography), np.float64)
    xy = project(inverse, features.xy.astype(float))
    jacobian = jacobians(inverse, features.xy.astype(float))
    area = np.linalg.det(jacobian)
    direction = np.column_stack([np.cos(features.angle), np.sin(features.angle)]).astype(float)
    along = np.einsum("nij,nj->ni", jacobian, direction)
    sound = np.isfinite(xy).all(axis=1) & (area > 0)
    mapped = replace(
        features,
        xy=xy.astype(np.float32),
        size=(features.size * np.sqrt(np.abs(area))).astype(np.float32),
        angle=(np.arctan2(along[:, 1], along[:, 0]) % (2 * np.pi)).astype(np.float32),
        colours=None,
    )
    return mapped.part(sound)


def with_more_inliers(first: Mapping[int, Evidence], second: Mapping[int, Evidence]) -> dict[int, Evidence]:
    """The evidence of two rounds by position: the second's where it has more inliers, or the first has none."""
    better = {p: e for p, e in second.items() if p not in first or e.inliers > first[p].inliers}
    return {**first, **better}


def _seen(query: ExpandedQuery, found: LocalFeatures, words: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of M features the query has already: the same first word, at the same place; (M,)."""
    table = WordTable.build(np.empty((0, 0), np.float32), query.words[:, :1])
    first, counts = table.entries(words)
    j = np.repeat(np.arange(len(words)), counts)
    i = table.rows[np.arange(len(j)) + np.repeat(first - np.cumsum(counts) + counts, counts)]
    gap = np.linalg.norm(query.features.xy[i] - found.xy[j], axis=1)
    seen = np.zeros(len(words), bool)
    seen[j[gap <= _SAME * found.size[j]]] = True
    return seen


def _uncrowded(query: ExpandedQuery, found: LocalFeatures, new: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the new features find room among those that joined before them, strongest first; (new.sum(),)."""
    joined = query.source != OWN
    size = np.concatenate([query.features.size[joined], found.size[new]])
    xy = np.concatenate([query.features.xy[joined], found.xy[new]])
    octave = np.round(np.log2(size))
    place = np.column_stack([np.floor(xy / (_PLACE * np.exp2(octave))[:, None]), octave])
    _, cell = np.unique(place, axis=0, return_inverse=True)
    order = np.argsort(cell, kind="stable")
    start = np.searchsorted(cell[order], cell[order])
    number = np.empty(len(cell), np.int64)
    number[order] = np.arange(len(cell)) - start
    return np.asarray(number[int(joined.sum()) :] < _CROWD, np.bool_)


def _concatenated(*parts: LocalFeatures) -> LocalFeatures:
    """All features of the parts, with the colours of the first."""
    names = ("xy", "size", "angle", "score", "descriptors")
    xy, size, angle, score, descriptors = (np.concatenate([getattr(p, name) for p in parts]) for name in names)
    return LocalFeatures(xy, size, angle, score, descriptors, parts[0].colours)
